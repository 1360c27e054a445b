/* low_numbers.c: a daemon that has closed its standard descriptors: the socket has number 0, and nothing of the library's takes 1
 * or 2, where output goes that somebody opens later. */
#include "msg.h"

int main(void)
{
	char buf[8192];
	struct sock s;
	int out = fcntl(1, F_DUPFD_CLOEXEC, 10), other, null;
	CHECK_CALL(out);
	close(0);
	close(1);
	other = open("/dev/null", O_WRONLY); /* 0, for a moment */
	CHECK(other == 0, "number %d", other);
	close(0);
	s = ring_open(NETLINK_USERSOCK, GEOM(8192, 2, 2048), GEOM(4096, 1, 2048));
	CHECK(s.fd == 0, "the socket has number %d", s.fd);
	CHECK(fcntl(1, F_GETFD) == -1 && errno == EBADF, "number 1 is taken");
	other = plain_open(NETLINK_USERSOCK);
	CHECK(other == 1, "the sender has number %d", other);
	for (int i = 0; i < 20; i++) {
		CHECK_CALL(plain_send(other, msg_user(buf, 100, i), 100, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
	/* What was the sender's becomes standard output. */
	null = open("/dev/null", O_WRONLY);
	CHECK(dup2(null, 1) == 1, "dup2: %s", strerror(errno));
	CHECK(write(1, "word", 4) == 4, "write: %s", strerror(errno));
	tx_put(&s, msg_user(buf, 64, 99), 64);
	CHECK(tx_kick_to(&s, s.port, 0) == 64, "kick: %s", strerror(errno));
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 99);
	CHECK(munmap(s.map, s.len) == 0 && close(0) == 0, "the end: %s", strerror(errno));
	CHECK(dup2(out, 1) == 1, "dup2: %s", strerror(errno));
	ok();
	return 0;
}
