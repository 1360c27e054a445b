/* A kick to a receiver without room: `slow` - it waits, again and again, and all arrives in order; `limit` - for SO_SNDTIMEO
 * and no longer; `signal` - until a handler without SA_RESTART runs; `nonblock` - not at all; `restart` - a handler with
 * SA_RESTART does not end it. */
#include "msg.h"
#include <sys/time.h>

enum { FRAMES = 64, SIZE = 200, TOTAL = 3000 };
static struct sock s;
static volatile sig_atomic_t rang;

static void ring_bell(int signal UNUSED_ARG)
{
	rang++;
}

static int narrow(void)
{
	int fd = plain_open(NETLINK_USERSOCK), small = 4096;
	CHECK_CALL(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
	return fd;
}

/* Puts messages from `put` on into free frames, up to `total` and as many as the ring has; how many there were then. */
static int fill(int put, int total)
{
	char buf[SIZE];
	int i;
	for (i = 0; i < FRAMES && put < total && status_of(head(&s.tx)) == NL_MMAP_STATUS_UNUSED; i++)
		tx_put(&s, msg_user(buf, SIZE, put++), SIZE);
	return put;
}

static void handle(int flags, long first_ms, long every_ms)
{
	struct sigaction action = { .sa_handler = ring_bell, .sa_flags = flags };
	struct itimerval timer = { { 0, every_ms * 1000 }, { 0, first_ms * 1000 } };
	CHECK_CALL(sigaction(SIGALRM, &action, NULL));
	CHECK_CALL(setitimer(ITIMER_REAL, &timer, NULL));
}

/* Takes what comes, slowly, and counts that it comes in order from 0 on. */
static void drain(int fd, int total)
{
	char buf[1024];
	int i;
	for (i = 0; i < total; i++) {
		ssize_t n = recv(fd, buf, sizeof buf, 0);
		CHECK(n > 0, "recv: %s", strerror(errno));
		check_user(buf, n, i);
		if (i % 50 == 0)
			msleep(i % 1000 == 0 ? 100 : 2);
	}
}

static void all_arrives(int flags)
{
	int fd = narrow(), put = 0;
	uint32_t port = port_of(fd);
	long sum = 0;
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (!pid) {
		drain(fd, TOTAL);
		_exit(0);
	}
	if (flags >= 0)
		handle(flags, 5, 20);
	while (put < TOTAL) {
		ssize_t n;
		put = fill(put, TOTAL);
		n = tx_kick_to(&s, port, 0);
		CHECK(n >= 0 && n % SIZE == 0, "kick returned %zd: %s", n, strerror(errno));
		sum += n;
	}
	CHECK(flags < 0 || rang > 0, "no signal came");
	while (sum < (long)TOTAL * SIZE) {
		ssize_t n = tx_kick_to(&s, port, 0);
		CHECK(n > 0, "kicks account for %ld bytes of %d", sum, TOTAL * SIZE);
		sum += n;
	}
	handle(SA_RESTART, 0, 0);
	join_child(pid);
}

static void refused(int wanted, int flags, long least, long most)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	int fd = narrow();
	long before = now_ms(), took;
	ssize_t n;
	to.nl_pid = port_of(fd);
	if (wanted == EINTR)
		handle(0, 300, 100);
	do {
		/* A kick that has sent some tells that first. */
		fill(0, FRAMES);
		n = sendto(s.fd, NULL, 0, flags, (struct sockaddr *)&to, sizeof to);
	} while (n > 0);
	took = now_ms() - before;
	CHECK(n < 0 && errno == wanted, "kick returned %zd: %s", n, strerror(errno));
	CHECK(took >= least && took < most, "after %ld ms", took);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "slow";
	struct timeval limit = { 0, 300000 };

	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(16384, 4, 1024));
	if (!strcmp(mode, "slow"))
		all_arrives(-1);
	else if (!strcmp(mode, "restart"))
		all_arrives(SA_RESTART);
	else if (!strcmp(mode, "nonblock"))
		refused(EAGAIN, MSG_DONTWAIT, 0, 10000);
	else if (!strcmp(mode, "limit")) {
		CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
		refused(EAGAIN, 0, 250, 10000);
	} else
		refused(EINTR, 0, 250, 10000);
	ok();
	return 0;
}
