/* Signals that come at any moment of every call on a socket with rings (argv[1]: restart or not): each request is acknowledged
 * once, each message comes once and in order, each option and registration is what the answers say. */
#include "msg.h"
#include <dirent.h>
#include <sys/epoll.h>
#include <sys/time.h>

static volatile unsigned fired;
static unsigned again, lives;
static struct sock s;

/* Each signal sets the time of the next. */
static void next_signal(void)
{
	struct itimerval at = { { 0, 0 }, { 0, 1 + fired * 7919 % 397 } };
	setitimer(ITIMER_REAL, &at, NULL);
}

static void handler(int sig UNUSED_ARG)
{
	fired++;
	next_signal();
}

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;
	CHECK(d, "/proc/self/fd: %s", strerror(errno));
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

#define UNTIL_DONE(r, call) do { \
	while (((r) = (call)) < 0 && errno == EINTR) \
		again++; \
	CHECK((r) >= 0, "%s: %s", #call, strerror(errno)); \
} while (0)

int main(int argc, char **argv)
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = argc > 1 && !strcmp(argv[1], "restart") ? SA_RESTART : 0 };
	struct itimerval off = { { 0, 0 }, { 0, 0 } };
	struct epoll_event e = { .events = EPOLLIN }, got[4];
	char buf[8192], small[64];
	uint32_t i, acks = 0, before;
	long end = now_ms() + 3000;
	int ep, on = 1;
	ssize_t r;

	s = ring_open(NETLINK_USERSOCK, GEOM(8192, 4, 2048), GEOM(4096, 1, 1024));
	struct sock route = ring_open(NETLINK_ROUTE, GEOM(8192, 4, 2048), GEOM(4096, 1, 1024));
	CHECK_CALL(ep = epoll_create1(EPOLL_CLOEXEC));
	before = descriptors();
	sigaction(SIGALRM, &a, NULL);
	next_signal();
	for (i = 1; now_ms() < end || fired < 500; i++) {
		struct pollfd p = { route.fd, POLLIN, 0 };
		CHECK(now_ms() < end + 60000, "only %u signals", fired);
		/* one request, one acknowledgement */
		tx_put(&route, msg_ack(small, i), 16);
		UNTIL_DONE(r, tx_kick(&route));
		do
			UNTIL_DONE(r, poll(&p, 1, 2000));
		while (r == 0);
		check_error(buf, rx_next(&route, buf, sizeof buf, NULL), i, 0);
		acks++;
		CHECK(!ready(&route.rx), "a second acknowledgement of %u", i);
		/* one message by COPY, and one in a frame */
		UNTIL_DONE(r, plain_send(s.fd, msg_user(buf, 3000, i), 3000, s.port, 0));
		CHECK(r == 3000, "a send of %zd bytes", r);
		UNTIL_DONE(r, plain_send(s.fd, msg_user(buf, 200, i), 200, s.port, 0));
		UNTIL_DONE(r, epoll_ctl(ep, EPOLL_CTL_ADD, s.fd, &e));
		do
			UNTIL_DONE(r, epoll_wait(ep, got, 4, 2000));
		while (r == 0);
		UNTIL_DONE(r, epoll_ctl(ep, EPOLL_CTL_DEL, s.fd, &e));
		CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_COPY, "status %u", status_of(head(&s.rx)));
		UNTIL_DONE(r, recv(s.fd, buf, sizeof buf, 0));
		check_user(buf, r, i);
		set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
		if (strict()) {
			UNTIL_DONE(r, recv(s.fd, buf, sizeof buf, 0));
			set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
			advance(&s.rx);
		} else
			r = rx_next(&s, buf, sizeof buf, NULL);
		check_user(buf, r, i);
		CHECK(!ready(&s.rx), "a second message %u", i);
		on = i & 1;
		UNTIL_DONE(r, setsockopt(s.fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on));
		if (i % 16 == 0) { /* a socket's whole life */
			struct nl_mmap_req shape = GEOM(4096, 1, 2048);
			char *map;
			int fd;
			UNTIL_DONE(fd, socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK));
			UNTIL_DONE(r, setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &shape, sizeof shape));
			UNTIL_DONE(r, setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &shape, sizeof shape));
			do
				map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			while (map == MAP_FAILED && errno == EINTR && ++again);
			CHECK(map != MAP_FAILED, "mmap: %s", strerror(errno));
			CHECK(status_of((void *)map) == NL_MMAP_STATUS_UNUSED, "not a ring");
			CHECK_CALL(munmap(map, 8192));
			CHECK_CALL(close(fd));
			CHECK(fd < 1024 && fcntl(fd, F_GETFD) < 0, "descriptor %d is open still", fd);
			lives++;
		}
	}
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(descriptors() == before, "%u descriptors, %u before", descriptors(), before);
	CHECK(acks == i - 1 && acks > 20, "%u acknowledgements of %u", acks, i - 1);
	printf("%u rounds, %u sockets, %u signals, %u calls made again\n", i, lives, fired, again);
	ok();
	return 0;
}
