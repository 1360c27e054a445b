/* soak SECONDS SEED: one process that does for so long what clients do, in an order by chance: numbered messages of all sizes
 * through a ring while it waits, dumps, rings set and set again, threads, forked children, killed ones, other programs. Streams are
 * complete and in order; in the last third it has no more descriptors, threads and mappings than in the first, and no more
 * memory to speak of. */
#include "msg.h"
#include <dirent.h>
#include <pthread.h>

enum { GROUP = 3, WINDOW = 48, BURST = 200, ROUTES = 300 };
/* Of memory: what an allocator may still take in after a third of the time. What is shared, rings and
 * messages that wait, has an end: 16 MiB an endpoint. */
enum { SLACK_KB = 1024, SLACK_MAPS = 4, SHARED_KB = 4 * 16384 };

static struct sock stream, route;
static int sender;
static volatile uint32_t *taken;
static uint32_t seq, sent;
static uint64_t dice;
static char buf[1 << 17];

static unsigned roll(unsigned sides)
{
	dice = dice * 6364136223846793005u + 1442695040888963407u;
	return (dice >> 33) % sides;
}

/* Most fit a frame; one in eight goes by COPY. */
static unsigned size_of(uint32_t nr)
{
	uint32_t mixed = nr * 2654435761u;
	return mixed % 8 ? 16 + mixed / 8 % 2000 : 2100 + mixed / 8 % 6000;
}

static void *send_burst(void *arg)
{
	static char message[8192];
	uint32_t end = sent + BURST;
	while (sent != end) {
		await_window(taken, sent, WINDOW);
		sent++;
		CHECK_CALL(multicast(sender, msg_user(message, size_of(sent), sent), size_of(sent), GROUP));
	}
	return arg;
}

static void streams(void)
{
	uint32_t end = sent + BURST, nr = sent;
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, send_burst, NULL) == 0, "pthread_create");
	while (nr != end) {
		ssize_t len = rx_take(&stream, buf, sizeof buf, NULL, 20000);
		check_user(buf, len, ++nr);
		CHECK(len == (ssize_t)size_of(nr), "message %u has %zd bytes", nr, len);
		*taken = nr;
	}
	pthread_join(thread, NULL);
	CHECK(!ready(&stream.rx), "more than was sent");
}

static void ask(struct sock *s)
{
	struct nlmsghdr *n = msg_ack(buf, ++seq);
	tx_put(s, n, n->nlmsg_len);
	CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
	check_error(buf, rx_take(s, buf, sizeof buf, NULL, 20000), seq, 0);
}

static unsigned count(const char *part, ssize_t len, int *done)
{
	const struct nlmsghdr *n = (const void *)part;
	unsigned messages = 0;
	for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
		CHECK(n->nlmsg_seq == seq, "a message of request %u in dump %u", n->nlmsg_seq, seq);
		*done |= n->nlmsg_type == NLMSG_DONE;
		messages += n->nlmsg_type == RTM_NEWROUTE;
	}
	return messages;
}

static void dump(void)
{
	struct nlmsghdr *n = msg_dump(buf, RTM_GETROUTE, AF_INET, ++seq);
	unsigned messages = 0;
	int done = 0;
	tx_put(&route, n, n->nlmsg_len);
	CHECK(tx_kick(&route) > 0, "kick: %s", strerror(errno));
	while (!done)
		messages += count(buf, rx_take(&route, buf, sizeof buf, NULL, 20000), &done);
	CHECK(messages >= ROUTES, "%u of %d routes", messages, ROUTES);
}

/* The same socket with one pair of rings after the other. */
static void set_again(void)
{
	static const unsigned frames[] = { 512, 1024, 2048, 4096 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct nl_mmap_req none = NO_RING;
	CHECK_CALL(fd);
	for (int i = 0; i < 3; i++) {
		unsigned frame = frames[roll(4)], blocks = 1 + roll(16);
		struct nl_mmap_req req = GEOM(4096, blocks, frame);
		struct sock s = ring_attach(fd, req, req);
		for (unsigned j = roll(40); j; j--)
			ask(&s);
		CHECK_CALL(munmap(s.map, s.len));
		CHECK_CALL(setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &none, sizeof none));
		CHECK_CALL(setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &none, sizeof none));
	}
	CHECK_CALL(close(fd));
}

static void own_rings(int times)
{
	struct sock own = ring_open(NETLINK_ROUTE, GEOM(4096, 8, 2048), GEOM(4096, 8, 2048));
	while (times--)
		ask(&own);
	CHECK_CALL(munmap(own.map, own.len));
	CHECK_CALL(close(own.fd));
}

static void *thread_of_its_own(void *arg)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&one);
	own_rings(5);
	pthread_mutex_unlock(&one);
	return arg;
}

static void threads(void)
{
	pthread_t all[3];
	for (int i = 0; i < 3; i++)
		CHECK(pthread_create(&all[i], NULL, thread_of_its_own, NULL) == 0, "pthread_create");
	for (int i = 0; i < 3; i++)
		pthread_join(all[i], NULL);
}

/* Goes on with its parent's rings, where that left off, and back; and has some of its own. */
static void child(void)
{
	struct pos { unsigned rx, tx, seq; } *at = (void *)(taken + 16);
	pid_t pid;
	CHECK_CALL(pid = fork());
	if (!pid) {
		for (int i = 0; i < 10; i++)
			ask(&route);
		own_rings(5);
		*at = (struct pos){ route.rx.pos, route.tx.pos, seq };
		_exit(0);
	}
	join_child(pid);
	route.rx.pos = at->rx;
	route.tx.pos = at->tx;
	seq = at->seq;
}

static void killed(void)
{
	int status;
	pid_t pid;
	CHECK_CALL(pid = fork());
	if (!pid)
		for (;;)
			own_rings(roll(20));
	usleep(roll(20000));
	CHECK_CALL(kill(pid, SIGKILL));
	CHECK_CALL(waitpid(pid, &status, 0));
	CHECK(WIFSIGNALED(status), "the child ended by itself: %#x", status);
}

static void other_program(void)
{
	pid_t pid;
	CHECK_CALL(pid = vfork());
	if (!pid) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	}
	join_child(pid);
}

struct held {
	long anon_kb, shared_kb, fds, threads, maps;
};

static long entries(const char *path)
{
	DIR *dir = opendir(path);
	long n = 0;
	CHECK(dir, "%s: %s", path, strerror(errno));
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* A thread that has been joined is in the list for a moment more. */
static long settled(void)
{
	long least = entries("/proc/self/task");
	for (int i = 0; i < 10; i++) {
		long now;
		usleep(500);
		now = entries("/proc/self/task");
		least = now < least ? now : least;
	}
	return least;
}

/* What it has now, where that is more than before. */
static void look(struct held *most)
{
	struct held now = { 0, 0, entries("/proc/self/fd"), settled(), 0 };
	FILE *f = fopen("/proc/self/status", "r");
	int c;
	CHECK(f, "/proc/self/status: %s", strerror(errno));
	while (fgets(buf, sizeof buf, f))
		if (sscanf(buf, "RssAnon: %ld", &now.anon_kb) != 1)
			sscanf(buf, "RssShmem: %ld", &now.shared_kb);
	fclose(f);
	CHECK(f = fopen("/proc/self/maps", "r"), "/proc/self/maps: %s", strerror(errno));
	while ((c = getc(f)) != EOF)
		now.maps += c == '\n';
	fclose(f);
#define MOST(field) most->field = now.field > most->field ? now.field : most->field
	MOST(anon_kb);
	MOST(shared_kb);
	MOST(fds);
	MOST(threads);
	MOST(maps);
}

int main(int argc, char **argv)
{
	static void (*const all[])(void) = { streams, streams, dump, set_again, threads, child, killed, other_program };
	enum { STEPS = sizeof all / sizeof *all };
	struct held first = { 0 }, last = { 0 };
	unsigned long done[STEPS] = { 0 }, steps = 0;
	long begin = now_ms(), time = (argc > 1 ? atol(argv[1]) : 10) * 1000;
	long looked = begin;
	int group = GROUP;

	dice = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	lo_up();
	add_routes(ROUTES);
	taken = shared_counter();
	stream = ring_open(NETLINK_USERSOCK, GEOM(16384, 8, 2048), NO_RING);
	CHECK_CALL(setsockopt(stream.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	route = ring_open(NETLINK_ROUTE, GEOM(65536, 4, 16384), GEOM(4096, 8, 2048));
	sender = plain_open(NETLINK_USERSOCK);
	/* Each once, so that the first third has seen all. */
	for (unsigned i = 0; i < STEPS; i++)
		all[i]();
	while (now_ms() - begin < time) {
		unsigned which = roll(STEPS);
		all[which]();
		done[which]++;
		steps++;
		if (steps % 16 && now_ms() - looked < 250)
			continue;
		looked = now_ms();
		if (looked - begin < time / 3)
			look(&first);
		else if (looked - begin > time * 2 / 3)
			look(&last);
	}
	fprintf(stderr, "%lu steps, %u messages; memory %ld to %ld KiB, shared %ld KiB, descriptors %ld to %ld, threads %ld to %ld, mappings %ld to %ld\n",
	       steps, sent, first.anon_kb, last.anon_kb, last.shared_kb, first.fds, last.fds, first.threads, last.threads, first.maps, last.maps);
	/* On a machine that has other things to do. */
	if (steps < 100)
		return 0;
	CHECK(last.fds <= first.fds, "descriptors grow");
	CHECK(last.threads <= first.threads, "threads grow");
	CHECK(last.maps <= first.maps + SLACK_MAPS, "mappings grow");
	CHECK(last.anon_kb <= first.anon_kb + SLACK_KB, "memory grows");
	CHECK(last.shared_kb <= SHARED_KB, "shared memory grows");
	for (unsigned i = 0; i < STEPS; i++)
		CHECK(done[i], "step %u was never done", i);
	return 0;
}
