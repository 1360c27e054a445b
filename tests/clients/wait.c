/* Waits for frames by one library or raw system call (argv[1]): wake-ups that are neither lost nor
 * early, exact time-outs, EINTR, and quiet once the frame is released (clients.md 2, 3, 4). */
#include "msg.h"
#include "waiter.h"
#include <sys/time.h>

static const struct waiter *w;
static unsigned early;

/* Waits until the head frame is there. A library call must not return before; the kernel wakes a raw
 * system call on the arrival itself, so such a client may have to look again (docs/compat.md): at
 * once, a bounded number of times, which is counted and shown. */
static void wait_for_frame(struct sock *s, int ms, const char *what, int nr)
{
	long end = now_ms() + 2000;
	for (;;) {
		int r = w->wait(s->fd, ms);
		CHECK(r == 1, "%s returned %d for %s %d: %s", w->name, r, what, nr, strerror(errno));
		if (ready(&s->rx))
			return;
		CHECK(w->is_raw, "%s woke for %s %d, but head frame %u has status %u", w->name, what, nr, s->rx.pos,
		      status_of(head(&s->rx)));
		early++;
		CHECK(now_ms() < end, "%s wakes again and again for %s %d, whose frame does not come", w->name, what, nr);
	}
}

static void on_alarm(int sig UNUSED_ARG) {}

static void released_is_quiet(struct sock *s)
{
	int r = w->wait(s->fd, 0);
	long end = now_ms() + 1000;
	/* What a raw call sees goes quiet a moment after the release that nobody was told of. */
	while (r && w->is_raw && now_ms() < end)
		r = w->wait(s->fd, 0);
	CHECK(r == 0, "%s reports %d after every frame was released", w->name, r);
}

/* A sender in another process answers each of our turns at a moment of its own. */
static void ping_pong(struct sock *s, int rounds)
{
	int turn[2], i;
	char buf[512], c = 0;
	pid_t pid;
	CHECK_CALL(pipe(turn));
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_USERSOCK);
		for (i = 0; i < rounds; i++) {
			CHECK(read(turn[0], &c, 1) == 1, "the reader is gone");
			if (i % 3 == 0)
				msleep(i % 7);
			msg_user(buf, 64 + i % 300, i);
			CHECK_CALL(plain_send(fd, buf, 64 + i % 300, s->port, 0));
		}
		_exit(0);
	}
	for (i = 0; i < rounds; i++) {
		ssize_t n;
		CHECK(write(turn[1], &c, 1) == 1, "write to the sender");
		wait_for_frame(s, -1, "round", i);
		n = rx_next(s, buf, sizeof buf, NULL);
		check_user(buf, n, i);
		released_is_quiet(s);
	}
	join_child(pid);
}

/* Multicasts of the kernel at another process's doing: VALID in default mode, where messages between
 * processes come by COPY. */
static void events(int rounds)
{
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(4096, 4, 2048), NO_RING);
	int group = RTNLGRP_IPV4_IFADDR, turn[2], i;
	char buf[4096], c = 0;
	pid_t pid;
	lo_up();
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	CHECK_CALL(pipe(turn));
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_ROUTE);
		for (i = 0; i < rounds; i++) {
			struct nlmsghdr *n = msg(buf, i % 2 ? RTM_DELADDR : RTM_NEWADDR, i % 2 ? 0 : NLM_F_CREATE, i,
						 sizeof(struct ifaddrmsg));
			struct ifaddrmsg a = { .ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = 1 };
			unsigned char address[4] = { 10, 0, 0, 1 };
			CHECK(read(turn[0], &c, 1) == 1, "the reader is gone");
			if (i % 3 == 0)
				msleep(i % 7);
			memcpy(NLMSG_DATA(n), &a, sizeof a);
			attr(n, 2 /* IFA_LOCAL */, address, 4);
			plain_request(fd, n);
		}
		_exit(0);
	}
	for (i = 0; i < rounds; i++) {
		struct nl_mmap_hdr meta;
		CHECK(write(turn[1], &c, 1) == 1, "write to the sender");
		wait_for_frame(&s, -1, "event", i);
		CHECK(rx_next(&s, buf, sizeof buf, &meta) > 0, "event %d is empty", i);
		CHECK(((struct nlmsghdr *)buf)->nlmsg_type == (i % 2 ? RTM_DELADDR : RTM_NEWADDR), "event %d is of type %u",
		      i, ((struct nlmsghdr *)buf)->nlmsg_type);
		CHECK(strict() || meta.nm_status == NL_MMAP_STATUS_VALID, "event %d has status %u", i, meta.nm_status);
		released_is_quiet(&s);
	}
	join_child(pid);
	munmap(s.map, s.len);
	close(s.fd);
}

/* Readable for as long as a frame is held, however often one asks. */
static void level(struct sock *s)
{
	char buf[256];
	int i, fd = plain_open(NETLINK_USERSOCK);
	for (i = 0; i < 3; i++)
		CHECK_CALL(plain_send(fd, msg_user(buf, 100, i), 100, s->port, 0));
	for (i = 0; i < 3; i++) {
		wait_for_frame(s, 1000, "frame", i);
		/* A raw call sees the socket, which becomes readable again a moment after the frame is there. */
		CHECK(w->wait(s->fd, w->is_raw ? 5000 : 0) == 1, "frame %d waits, %s does not say so", i, w->name);
		check_user(buf, rx_next(s, buf, sizeof buf, NULL), i);
	}
	released_is_quiet(s);
	close(fd);
}

static void timeouts(struct sock *s)
{
	static const int ms[] = { 1, 20, 150 };
	size_t i;
	for (i = 0; i < sizeof ms / sizeof *ms; i++) {
		struct timespec a, b;
		long us;
		int r;
		clock_gettime(CLOCK_MONOTONIC, &a);
		r = w->wait(s->fd, ms[i]);
		clock_gettime(CLOCK_MONOTONIC, &b);
		us = (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000;
		CHECK(r == 0, "%s returned %d with nothing to read", w->name, r);
		CHECK(us >= ms[i] * 1000L, "%s of %d ms ended after %ld us", w->name, ms[i], us);
		CHECK(us < ms[i] * 1000L + 400000, "%s of %d ms ended after %ld us", w->name, ms[i], us);
	}
}

/* A handler without SA_RESTART ends the wait; errno says EINTR. */
static void interrupted(struct sock *s)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval t = { .it_value = { 0, 60000 } };
	long start = now_ms();
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
	CHECK(w->wait(s->fd, -1) == -1 && errno == EINTR, "%s was not interrupted: %s", w->name, strerror(errno));
	CHECK(now_ms() - start < 2000, "the signal took %ld ms to arrive", now_ms() - start);
}

int main(int argc, char **argv)
{
	struct sock s;
	w = find_waiter(argc > 1 ? argv[1] : NULL);
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 2048), GEOM(4096, 1, 2048));
	timeouts(&s);
	interrupted(&s);
	level(&s);
	ping_pong(&s, 300);
	timeouts(&s);
	interrupted(&s);
	events(200); /* last: an epoll set has both sockets from here on */
	printf("%u early wake-ups\n", early);
	ok();
	return 0;
}
