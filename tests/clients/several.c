/* Several ring sockets, an ordinary netlink socket and a pipe in one waiting set (clients.md 12),
 * by poll, select, epoll or raw epoll (argv[1]). */
#include "msg.h"
#include "waiter.h"

enum { RINGS = 5, PLAIN = RINGS, PIPE = RINGS + 1, FDS = RINGS + 2 };
static int fds[FDS], ep = -1, is_raw;

/* The set of ready positions, as a bit mask. */
static unsigned ready_set(const char *how, int ms)
{
	unsigned mask = 0;
	int i, r;
	if (!strcmp(how, "poll")) {
		struct pollfd p[FDS + 1];
		for (i = 0; i < FDS; i++)
			p[i] = (struct pollfd){ fds[i], POLLIN, 0x7fff };
		p[FDS] = (struct pollfd){ -1, POLLIN, 0x7fff }; /* a hole, as event loops leave them */
		r = poll(p, FDS + 1, ms);
		for (i = 0; i < FDS; i++)
			mask |= !!(p[i].revents & POLLIN) << i;
		CHECK(p[FDS].revents == 0, "poll wrote events for fd -1");
	} else if (!strcmp(how, "select")) {
		struct timeval t = { ms / 1000, ms % 1000 * 1000 };
		fd_set set;
		int max = 0;
		FD_ZERO(&set);
		for (i = 0; i < FDS; i++) {
			FD_SET(fds[i], &set);
			max = fds[i] > max ? fds[i] : max;
		}
		r = select(max + 1, &set, NULL, NULL, ms < 0 ? NULL : &t);
		for (i = 0; i < FDS && r >= 0; i++)
			mask |= !!FD_ISSET(fds[i], &set) << i;
	} else {
		struct epoll_event e[FDS];
		r = is_raw ? raw(SYS_epoll_pwait, ep, (long)e, FDS, ms, 0, 8) : epoll_wait(ep, e, FDS, ms);
		for (i = 0; i < r; i++)
			mask |= 1u << e[i].data.u32;
	}
	CHECK(r >= 0, "%s: %s", how, strerror(errno));
	CHECK(r == __builtin_popcount(mask), "%s returned %d for ready set %x", how, r, mask);
	return mask;
}

/* Events come in any order and number; wait until the set is what it must become. */
static void expect(const char *how, unsigned want)
{
	long end = now_ms() + 2000;
	unsigned got;
	do
		got = ready_set(how, want ? 500 : 0);
	/* A raw call may see a socket a moment longer than its frame is held. */
	while (got != want && ((got & ~want) == 0 || is_raw) && now_ms() < end);
	CHECK(got == want, "%s: ready set %x, expected %x", how, got, want);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "poll";
	struct sock s[RINGS];
	char buf[4096];
	int pipefd[2], sender = plain_open(NETLINK_USERSOCK), i, round;
	unsigned seq[RINGS] = { 0 };

	is_raw = !strcmp(how, "raw-epoll");
	for (i = 0; i < RINGS; i++) {
		s[i] = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), i % 2 ? GEOM(4096, 1, 4096) : NO_RING);
		fds[i] = s[i].fd;
	}
	fds[PLAIN] = plain_open(NETLINK_USERSOCK);
	CHECK_CALL(pipe(pipefd));
	fds[PIPE] = pipefd[0];
	if (strstr(how, "epoll")) {
		CHECK_CALL(ep = epoll_create1(0));
		for (i = 0; i < FDS; i++) {
			struct epoll_event e = { .events = EPOLLIN, .data = { .u32 = i } };
			CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e));
		}
	}
	for (round = 0; round < 60; round++) {
		unsigned want = 0;
		expect(how, 0);
		for (i = 0; i < FDS; i++) {
			if (!((round * 37 + 11) >> i & 1))
				continue;
			want |= 1u << i;
			if (i < RINGS)
				CHECK_CALL(plain_send(sender, msg_user(buf, 300, seq[i]), 300, s[i].port, 0));
			else if (i == PLAIN)
				CHECK_CALL(plain_send(sender, msg_user(buf, 300, 1), 300, port_of(fds[i]), 0));
			else
				CHECK(write(pipefd[1], "x", 1) == 1, "write to the pipe");
		}
		if (want)
			expect(how, want);
		for (i = 0; i < FDS; i++) {
			if (!(want >> i & 1))
				continue;
			if (i < RINGS) {
				ssize_t n;
				long end = now_ms() + 1000;
				/* nor is it told: the frame comes a moment after a raw wake-up */
				while (is_raw && !ready(&s[i].rx) && now_ms() < end)
					sched_yield();
				CHECK(ready(&s[i].rx), "socket %d reported without a frame", i);
				n = rx_next(&s[i], buf, sizeof buf, NULL);
				check_user(buf, n, seq[i]++);
			} else if (i == PLAIN)
				check_user(buf, recv(fds[i], buf, sizeof buf, 0), 1);
			else
				CHECK(read(pipefd[0], buf, 1) == 1, "read of the pipe");
			want &= ~(1u << i);
			expect(how, want);
		}
	}
	ok();
	return 0;
}
