/* A process with rings runs another program while a child of its goes on with them: at any moment, also when its backing thread is just
 * moving messages. The child must not wait for a thread that the other program has replaced. argv[1], "second", is that program. */
#include "msg.h"

enum { ROUNDS = 10, OWN = 777, SECONDS = 20 };

static struct sock s;
static char buf[8192];
static volatile uint32_t *words; /* the maker's position, whether the sender stops, how many messages the maker has seen */

static void flood(int sender, uint32_t port)
{
	char m[300];
	msg_user(m, 200, 1);
	while (!words[1])
		plain_send(sender, m, 200, port, 0); /* full or not */
	_exit(0);
}

/* After the exec: everything that is there is read, and the next message comes. */
static void go_on(int sender, int gone)
{
	char c;
	alarm(SECONDS);
	CHECK(read(gone, &c, 1) == 0, "the maker has not gone on");
	words[1] = 1;
	s.rx.pos = words[0];
	while (plain_send(sender, msg_user(buf, OWN, 2), OWN, s.port, 0) < 0) {
		CHECK(errno == ENOBUFS || errno == EAGAIN, "send: %s", strerror(errno));
		while (rx_next(&s, buf, sizeof buf, NULL) >= 0)
			;
		CHECK_CALL(poll(&(struct pollfd){ s.fd, POLLIN, 0 }, 1, 10));
	}
	while (rx_take(&s, buf, sizeof buf, NULL, SECONDS * 1000) != OWN)
		;
	_exit(0);
}

static void maker(char *self, int round)
{
	int sender = plain_open(NETLINK_USERSOCK), gone[2];
	long end = now_ms() + 10000;
	pid_t pid;
	CHECK_CALL(fcntl(sender, F_SETFL, O_NONBLOCK));
	CHECK_CALL(pipe2(gone, O_CLOEXEC));
	s = ring_open(NETLINK_USERSOCK, GEOM(16384, 8, 2048), NO_RING);
	CHECK_CALL(pid = fork());
	if (pid == 0) {
		close(gone[1]);
		go_on(sender, gone[0]);
	}
	CHECK_CALL(pid = fork());
	if (pid == 0) {
		close(gone[1]);
		flood(sender, s.port);
	}
	/* Without a call: the backing thread takes over, and is at work most of the time. */
	while (words[2] < 3000u + 37u * round) {
		struct nl_mmap_hdr *h = head(&s.rx);
		unsigned st = status_of(h);
		if (st == NL_MMAP_STATUS_COPY)
			break;
		if (st != NL_MMAP_STATUS_VALID) {
			CHECK(now_ms() < end, "the backing thread has moved %u messages", words[2]);
			continue;
		}
		set_status(h, NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
		words[0] = s.rx.pos;
		words[2]++;
	}
	execl("/proc/self/exe", self, "second", (char *)NULL);
	FAIL("exec: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	int round, st;
	pid_t pid;
	if (argc == 2 && !strcmp(argv[1], "second")) {
		for (st = 0; wait(&st) > 0;)
			CHECK(st == 0, "a child ended with %#x", st);
		return 0;
	}
	words = shared_counter();
	for (round = 0; round < ROUNDS; round++) {
		words[0] = words[1] = words[2] = 0;
		CHECK_CALL(pid = fork());
		if (pid == 0)
			maker(argv[0], round);
		join_child(pid);
	}
	ok();
	return 0;
}
