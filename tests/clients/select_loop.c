/* Calls select with time-out 0 in a loop and does its own work between: a habit that must see
 * every message and never a descriptor without a frame. */
#include "msg.h"
#include <sys/select.h>

int main(void)
{
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(8192, 2, 2048), NO_RING);
	enum { TOTAL = 500 };
	char buf[2048];
	int i = 0, turns = 0;
	long end = now_ms() + 15000;
	volatile uint32_t *taken = shared_counter();
	pid_t pid = fork();

	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_USERSOCK);
		for (i = 0; i < TOTAL; i++) {
			await_window(taken, i, s.rx.frame_nr);
			CHECK_CALL(plain_send(fd, msg_user(buf, 512, i), 512, s.port, 0));
			if (i % 50 == 0)
				msleep(3);
		}
		_exit(0);
	}
	while (i < TOTAL) {
		struct timeval none = { 0, 0 };
		fd_set in;
		int r;
		FD_ZERO(&in);
		FD_SET(s.fd, &in);
		r = select(s.fd + 1, &in, NULL, NULL, &none);
		CHECK(r >= 0, "select: %s", strerror(errno));
		CHECK(none.tv_sec == 0 && none.tv_usec == 0, "select changed a time-out of zero");
		turns++;
		if (r == 0) {
			CHECK(now_ms() < end, "message %d of %d did not come", i, TOTAL);
			continue;
		}
		CHECK(ready(&s.rx), "select reports a frame, the head has status %u", status_of(head(&s.rx)));
		while (ready(&s.rx)) {
			check_user(buf, rx_next(&s, buf, sizeof buf, NULL), i++);
			*taken = i;
		}
	}
	join_child(pid);
	CHECK(turns > 0, "no turn");
	ok();
	return 0;
}
