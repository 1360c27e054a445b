/* A client whose daemon ends under it, told so by a line on its standard input: every call says so, nothing hangs, and
 * the frames that came stay readable. */
#include "msg.h"

int main(void)
{
	static char buf[16384];
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 2, 2048));
	struct pollfd p = { s.fd, POLLIN, 0 };
	struct nl_mmap_hdr *h = head(&s.rx);
	int fd;

	CHECK_CALL(plain_send(s.fd, msg_ack(buf, 1), 16, 0, 0));
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "no answer");
	puts("ready");
	fflush(stdout);
	CHECK(fgets(buf, sizeof buf, stdin), "no line came");
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID && h->nm_len == 36, "the frame has changed");
	CHECK(plain_send(s.fd, msg_ack(buf, 2), 16, 0, 0) < 0 && errno == ENOTCONN, "send: %s", strerror(errno));
	CHECK(tx_kick(&s) < 0 && errno == ENOTCONN, "kick: %s", strerror(errno));
	CHECK(recv(s.fd, buf, sizeof buf, 0) < 0 && errno == ENOTCONN, "recv: %s", strerror(errno));
	CHECK(poll(&p, 1, 5000) == 1 && p.revents & POLLERR, "poll: %x", p.revents);
	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	CHECK(fd < 0 && errno == EAFNOSUPPORT, "another socket: %s", strerror(errno));
	CHECK(munmap(s.map, s.len) == 0 && close(s.fd) == 0, "tear-down: %s", strerror(errno));
	ok();
	return 0;
}
