/* epoll as event loops use it (argv[1]): level, edge, one-shot, registered before the rings were
 * set, modified later, with EPOLLOUT, through a dup of the fd, nested in poll, select and another epoll. */
#include "msg.h"
#include <sys/select.h>
#include <sys/epoll.h>

static int ep, sender;
static struct sock s;
static char buf[4096];

static int waited(int ms)
{
	struct epoll_event e[8];
	int r = epoll_wait(ep, e, 8, ms);
	CHECK(r >= 0, "epoll_wait: %s", strerror(errno));
	return r ? (int)e[0].events : 0;
}

static void feed(uint32_t seq)
{
	CHECK_CALL(plain_send(sender, msg_user(buf, 200, seq), 200, s.port, 0));
}

static void eat(uint32_t seq)
{
	ssize_t n;
	CHECK(ready(&s.rx), "epoll reported, but head frame %u has status %u", s.rx.pos, status_of(head(&s.rx)));
	n = rx_next(&s, buf, sizeof buf, NULL);
	check_user(buf, n, seq);
}

static void add(int fd, unsigned events)
{
	struct epoll_event e = { .events = events, .data = { .fd = fd } };
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static void level(void)
{
	unsigned i;
	add(s.fd, EPOLLIN);
	for (i = 0; i < 50; i++) {
		feed(2 * i);
		feed(2 * i + 1);
		CHECK(waited(1000) == EPOLLIN, "two frames wait unseen");
		eat(2 * i);
		CHECK(waited(1000) == EPOLLIN, "one frame waits unseen");
		eat(2 * i + 1);
		CHECK(waited(0) == 0, "reported though all frames are released");
	}
}

/* Edge: one report per arrival, none while nothing new came, none lost. */
static void edge(void)
{
	unsigned i;
	add(s.fd, EPOLLIN | EPOLLET);
	CHECK(waited(50) == 0, "an edge before anything came");
	feed(0);
	CHECK(waited(1000) & EPOLLIN, "first edge is lost");
	CHECK(waited(50) == 0, "a second report of the same arrival");
	feed(1);
	CHECK(waited(1000) & EPOLLIN, "the edge of a second arrival is lost while the first is held");
	eat(0);
	eat(1);
	for (i = 2; i < 100; i++) {
		feed(i);
		CHECK(waited(1000) & EPOLLIN, "edge %u is lost", i);
		eat(i);
	}
	CHECK(waited(50) == 0, "an edge though nothing came");
}

static void oneshot(void)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data = { .fd = s.fd } };
	add(s.fd, EPOLLIN | EPOLLONESHOT);
	feed(0);
	CHECK(waited(1000) & EPOLLIN, "the one shot did not come");
	CHECK(waited(50) == 0, "a one-shot registration reported twice");
	eat(0);
	feed(1);
	CHECK(waited(50) == 0, "a spent registration reported");
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_MOD, s.fd, &e));
	CHECK(waited(1000) & EPOLLIN, "re-armed with a frame waiting, no report");
	eat(1);
}

static void modified(void)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data = { .fd = s.fd } };
	add(s.fd, EPOLLOUT);
	CHECK(waited(1000) == EPOLLOUT, "an idle ring socket must be writable");
	feed(0);
	CHECK(waited(1000) == EPOLLOUT, "EPOLLIN reported though only EPOLLOUT was asked for");
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_MOD, s.fd, &e));
	CHECK(waited(1000) == (EPOLLIN | EPOLLOUT), "both directions are ready");
	eat(0);
	CHECK(waited(1000) == EPOLLOUT, "EPOLLIN stays though the frame is released");
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_DEL, s.fd, NULL));
	feed(1);
	CHECK(waited(50) == 0, "a deleted registration reported");
	eat(1);
}

/* Runtimes register the number they got first and read through another. */
static void dup_registered(void)
{
	int d = fcntl(s.fd, F_DUPFD_CLOEXEC, 100), i;
	CHECK_CALL(d);
	add(d, EPOLLIN);
	for (i = 0; i < 20; i++) {
		feed(i);
		CHECK(waited(1000) & EPOLLIN, "frame %d waits, the dup's registration is silent", i);
		eat(i);
		CHECK(waited(0) == 0, "reported though the frame is released");
	}
}

/* Event loops inside event loops: the outer one waits for the inner epoll's own descriptor. */
static void nested(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int outer, i;
	CHECK_CALL(outer = epoll_create1(0));
	CHECK_CALL(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &e));
	add(s.fd, EPOLLIN);
	for (i = 0; i < 60; i++) {
		struct pollfd p = { ep, POLLIN, 0 };
		struct timeval t = { 2, 0 };
		fd_set set;
		int r;
		FD_ZERO(&set);
		FD_SET(ep, &set);
		CHECK(poll(&p, 1, 0) == 0, "round %d: the inner epoll is readable with nothing to report", i);
		feed(i);
		r = i % 3 == 0 ? poll(&p, 1, 2000) : i % 3 == 1 ? select(ep + 1, &set, NULL, NULL, &t)
							       : epoll_wait(outer, &e, 1, 2000);
		CHECK(r == 1, "round %d: the outer wait saw nothing", i);
		CHECK(waited(1000) == EPOLLIN, "round %d: the inner epoll has nothing to report", i);
		eat(i);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK);
	struct nl_mmap_req g = GEOM(4096, 4, 2048);
	CHECK_CALL(fd);
	bind_groups(fd, 0);
	CHECK_CALL(ep = epoll_create1(EPOLL_CLOEXEC));
	sender = plain_open(NETLINK_USERSOCK);
	if (!strcmp(mode, "before-rings"))
		add(fd, EPOLLIN);
	if (!strcmp(mode, "dup-before-rings"))
		add(fcntl(fd, F_DUPFD_CLOEXEC, 100), EPOLLIN);
	s = ring_attach(fd, g, NO_RING);
	s.port = port_of(fd);
	if (!strcmp(mode, "level"))
		level();
	else if (!strcmp(mode, "edge"))
		edge();
	else if (!strcmp(mode, "oneshot"))
		oneshot();
	else if (!strcmp(mode, "modified"))
		modified();
	else if (!strcmp(mode, "nested"))
		nested();
	else if (!strcmp(mode, "dup"))
		dup_registered();
	else if (!strcmp(mode, "before-rings") || !strcmp(mode, "dup-before-rings")) {
		int i;
		for (i = 0; i < 50; i++) {
			feed(i);
			CHECK(waited(1000) == EPOLLIN, "registered before the rings were set: frame %d unseen", i);
			eat(i);
			CHECK(waited(0) == 0, "reported though the frame is released");
		}
	} else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
