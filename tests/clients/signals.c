/* Signal handlers that call hooked functions above hooked functions: a timer interrupts sends, waits
 * and receives thousands of times, and its handler polls, receives, dups and closes by itself. */
#include "msg.h"
#include <sys/time.h>

static struct sock s, own;
static volatile unsigned fired, in_handler;

static void handler(int sig UNUSED_ARG)
{
	int saved = errno, d;
	struct pollfd p[2] = { { s.fd, POLLIN, 0 }, { own.fd, POLLIN, 0 } };
	char c[16];
	fired++;
	if (in_handler++)
		FAIL("the handler interrupted itself");
	poll(p, 2, 0);
	recv(own.fd, c, sizeof c, MSG_DONTWAIT);
	d = dup(s.fd);
	if (d >= 0)
		close(d);
	tx_kick(&own);
	in_handler = 0;
	errno = saved;
}

int main(void)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct itimerval t = { { 0, 300 }, { 0, 300 } }, off = { { 0, 0 }, { 0, 0 } };
	char buf[4096];
	uint32_t i;
	long end = now_ms() + 4000;

	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
	own = ring_open(NETLINK_USERSOCK, GEOM(4096, 1, 1024), GEOM(4096, 1, 1024));
	sigaction(SIGALRM, &sa, NULL);
	CHECK_CALL(setitimer(ITIMER_REAL, &t, NULL));
	for (i = 0; now_ms() < end; i++) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		size_t len = i % 3 ? 100 : 2000;
		ssize_t n;
		int r;
		if (len < 1000) {
			tx_put(&s, msg_user(buf, len, i), len);
			n = tx_kick_to(&s, s.port, 0);
		} else
			n = plain_send(s.fd, msg_user(buf, len, i), len, s.port, 0);
		CHECK(n == (ssize_t)len, "send %u: %zd %s", i, n, strerror(errno));
		while ((r = poll(&p, 1, 2000)) < 0)
			CHECK(errno == EINTR, "poll: %s", strerror(errno));
		CHECK(r == 1 && ready(&s.rx), "message %u: poll %d, head status %u", i, r, status_of(head(&s.rx)));
		check_user(buf, rx_next(&s, buf, sizeof buf, NULL), i);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(fired > 1000, "only %u signals", fired);
	CHECK(i > 500, "only %u messages got through", i);
	ok();
	return 0;
}
