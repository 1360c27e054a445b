/* device_walkers NODE: clients that go through full rings, of which the daemon fills the next before they ask.
 *
 * One thread waits for eight sockets with rings of eight frames, and goes through each that is ready, while they are sent to as fast
 * as they take it: level- and edge-triggered, and beside a thread that asks about them all the time. Every message has to come, in
 * order, and nobody may be left asleep.
 *
 * device_walkers NODE full: one socket whose ring is full. Prints "full", asks about it every millisecond until a line comes in, then
 * asks a hundred times more, and prints how many of these said that there is something. */
#include "device.h"
#include <pthread.h>

enum { SOCKETS = 8, FRAMES = 8, EACH = 4000 };
static struct device d[SOCKETS];
static struct sockaddr_nl names[SOCKETS];
static uint32_t next[SOCKETS];
static volatile int stop;

static int sender(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK);
	CALL(fd);
	return fd;
}

static void send_one(int fd, int to, uint32_t number, int flags)
{
	struct nlmsghdr message = { sizeof message, 77, 0, number, 0 };
	CALL(sendto(fd, &message, sizeof message, flags, (struct sockaddr *)&names[to], sizeof names[to]));
}

static void *flood(void *unused)
{
	int fd = sender();
	(void)unused;
	for (uint32_t i = 0; i < EACH; i++)
		for (int s = 0; s < SOCKETS; s++)
			send_one(fd, s, i, 0);
	close(fd);
	return NULL;
}

static void *ask(void *unused)
{
	(void)unused;
	while (!stop)
		for (int i = 0; i < SOCKETS; i++) {
			struct pollfd p = { .fd = d[i].fd, .events = POLLIN };
			CALL(poll(&p, 1, 1));
		}
	return NULL;
}

static void make(int i, const char *node)
{
	names[i] = (struct sockaddr_nl){ 0 };
	device_open(&d[i], node, NETLINK_USERSOCK);
	CALL(ioctl(d[i].fd, NLMMAP_GETSOCKNAME, &names[i]));
	device_rings(&d[i], 4096, 1, 512);
	next[i] = 0;
}

static void end(int i)
{
	munmap(d[i].rings, d[i].rx_len + d[i].tx_len);
	close(d[i].fd);
}

static void walk(int i, int edge)
{
	for (;;) {
		struct nl_mmap_hdr *h = frame_at(&d[i], 0, d[i].rx);
		const struct nlmsghdr *m = (const void *)((const char *)h + NL_MMAP_HDRLEN);
		if (status_of(h) != NL_MMAP_STATUS_VALID)
			return;
		CHECK(m->nlmsg_seq == next[i], "socket %d: message %u instead of %u (edge %d)", i, m->nlmsg_seq, next[i], edge);
		next[i]++;
		set_status(h, NL_MMAP_STATUS_UNUSED);
		d[i].rx++;
	}
}

static void run(const char *node, int edge, int beside)
{
	struct epoll_event events[SOCKETS];
	uint64_t left = SOCKETS;
	pthread_t threads[2];
	int epoll, n;
	CALL(epoll = epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < SOCKETS; i++) {
		struct epoll_event e = { .events = EPOLLIN | (edge ? EPOLLET : 0), .data.u32 = i };
		make(i, node);
		CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, d[i].fd, &e));
	}
	stop = 0;
	CHECK(!pthread_create(&threads[0], NULL, flood, NULL), "thread");
	CHECK(!beside || !pthread_create(&threads[1], NULL, ask, NULL), "thread");
	while (left > 0) {
		CALL(n = epoll_wait(epoll, events, SOCKETS, 20000));
		CHECK(n > 0, "asleep with messages left (edge %d, beside %d): %u and %u of %d", edge, beside, next[0], next[1], EACH);
		for (int i = 0; i < n; i++)
			walk(events[i].data.u32, edge);
		left = 0;
		for (int i = 0; i < SOCKETS; i++)
			left += next[i] < EACH;
	}
	stop = 1;
	pthread_join(threads[0], NULL);
	if (beside)
		pthread_join(threads[1], NULL);
	close(epoll);
	for (int i = 0; i < SOCKETS; i++)
		end(i);
}

static void full(const char *node)
{
	struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .events = POLLIN } };
	int fd = sender(), ready = 0;
	make(0, node);
	for (uint32_t i = 0; i < 4 * FRAMES; i++)
		send_one(fd, 0, i, 0);
	p[1].fd = d[0].fd;
	for (int told = 0;;) {
		CALL(poll(p + 1, 1, 10000));
		CHECK(p[1].revents & POLLIN, "a full ring is not ready");
		if (!told++) {
			puts("full");
			fflush(stdout);
		}
		CALL(poll(p, 1, 1));
		if (p[0].revents)
			break;
	}
	for (int i = 0; i < 100; i++) {
		CALL(poll(p + 1, 1, 10000));
		ready += p[1].revents == POLLIN;
	}
	printf("%d\n", ready);
	end(0);
	close(fd);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2 || argc == 3, "usage: %s NODE [full]", argv[0]);
	if (argc == 3) {
		full(argv[1]);
		return 0;
	}
	for (int edge = 0; edge < 2; edge++)
		for (int beside = 0; beside < 2; beside++)
			run(argv[1], edge, beside);
	return 0;
}
