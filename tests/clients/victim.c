/* A client that never rests, to be killed, or to lose its supervisor (argv[2]: busy, sockets, poll, epoll, early-epoll, recv): at the first call
 * that nobody answers any more (ENOSYS) it ends with 42. argv[1] is a word to find it by. */
#include "msg.h"
#include <sys/epoll.h>

static char buf[65536];

static void judge(long result, const char *what)
{
	if (result < 0 && errno == ENOSYS)
		_exit(42);
	CHECK(result >= 0 || errno == EAGAIN, "%s: %s", what, strerror(errno));
}

#define TRY(call) judge(call, #call)

static void ready_now(void)
{
	puts("ready");
	fflush(stdout);
}

/* Sleeps for ever. */
static void sleeper(const char *mode)
{
	struct epoll_event e = { .events = EPOLLIN }, got[4];
	int early = epoll_create1(EPOLL_CLOEXEC), late;
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
	CHECK_CALL(late = epoll_create1(EPOLL_CLOEXEC));
	CHECK_CALL(epoll_ctl(early, EPOLL_CTL_ADD, s.fd, &e));
	CHECK_CALL(epoll_ctl(late, EPOLL_CTL_ADD, s.fd, &e));
	ready_now();
	for (;;) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		if (!strcmp(mode, "poll"))
			TRY(poll(&p, 1, -1));
		else if (!strcmp(mode, "recv"))
			TRY(recv(s.fd, buf, sizeof buf, 0));
		else
			TRY(epoll_wait(!strcmp(mode, "epoll") ? late : early, got, 4, -1));
		TRY(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT));
	}
}

/* Makes sockets for ever, each at a number that is free. */
static void maker(void)
{
	ready_now();
	for (;;) {
		int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), copy;
		TRY(fd);
		CHECK(fd > 2, "a socket at %d, which is not free", fd);
		TRY(copy = dup(fd));
		CHECK(copy > 2 && copy != fd, "a copy of %d at %d, which is not free", fd, copy);
		CHECK(close(fd) == 0 && close(copy) == 0, "close: %s", strerror(errno));
	}
}

int main(int argc, char **argv)
{
	struct nl_mmap_req shape = GEOM(16384, 2, 8192);
	unsigned n;
	alarm(60);
	if (argc > 2 && !strcmp(argv[2], "sockets"))
		maker();
	if (argc > 2 && strcmp(argv[2], "busy"))
		sleeper(argv[2]);
	ready_now();
	for (n = 0;; n++) {
		struct sock s = { 0 };
		struct pollfd p;
		int done = 0;
		TRY(s.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
		TRY(setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &shape, sizeof shape));
		TRY(setsockopt(s.fd, SOL_NETLINK, NETLINK_TX_RING, &shape, sizeof shape));
		s.len = 2 * req_bytes(shape);
		s.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
		TRY(s.map == MAP_FAILED ? -1 : 0);
		s.rx = ring_at(s.map, shape);
		s.tx = ring_at(s.map + req_bytes(shape), shape);
		tx_put(&s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, n), 32);
		TRY(tx_kick(&s));
		p = (struct pollfd){ s.fd, POLLIN, 0 };
		while (!done) {
			ssize_t len = rx_next(&s, buf, sizeof buf, NULL);
			struct nlmsghdr *h = (struct nlmsghdr *)buf;
			if (len < 0)
				TRY(poll(&p, 1, -1));
			for (; len > 0 && NLMSG_OK(h, (size_t)len); h = NLMSG_NEXT(h, len))
				done |= h->nlmsg_type == NLMSG_DONE;
		}
		CHECK_CALL(munmap(s.map, s.len));
		CHECK_CALL(close(s.fd));
	}
}
