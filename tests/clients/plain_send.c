/* Ordinary sends on sockets that have rings: on an RX ring only, with a buffer inside the TX ring
 * (its VALID mark stays), and rings set on a bound socket that has already been used. */
#include "msg.h"

int main(void)
{
	struct sock s;
	char buf[8192];
	struct nl_mmap_hdr *h;
	int fd;
	ssize_t n;

	/* RX ring only */
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 8192), NO_RING);
	CHECK(plain_send(s.fd, msg_ack(buf, 1), 16, 0, 0) == 16, "send on an RX-only socket: %s", strerror(errno));
	n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, 1, 0);
	CHECK(sendto(s.fd, NULL, 0, 0, NULL, 0) == 0, "an empty send without a TX ring must return 0");

	/* A buffer inside the TX ring: sent as it stands, its frame untouched, the head not moved */
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 8192), GEOM(4096, 2, 2048));
	h = head(&s.tx);
	memcpy(payload(h), msg_ack(buf, 2), 16);
	h->nm_len = 16;
	set_status(h, NL_MMAP_STATUS_VALID);
	CHECK(plain_send(s.fd, payload(h), 16, 0, 0) == 16, "send of ring memory: %s", strerror(errno));
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "an ordinary send consumed the frame its buffer lies in");
	n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, 2, 0);
	((struct nlmsghdr *)payload(h))->nlmsg_seq = 3;
	CHECK(tx_kick(&s) == 16, "the kick after it did not send the frame");
	n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, 3, 0);

	/* Rings set on a bound socket after ordinary traffic, a dump with a large buffer included */
	fd = plain_open(NETLINK_ROUTE);
	plain_request(fd, msg_ack(buf, 4));
	{
		static char big[32768];
		CHECK_CALL(plain_send(fd, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 5), 32, 0, 0));
		do {
			n = recv(fd, big, sizeof big, 0);
			CHECK(n > 0, "recv: %s", strerror(errno));
		} while (((struct nlmsghdr *)big)->nlmsg_type != NLMSG_DONE);
	}
	s = ring_attach(fd, GEOM(16384, 1, 8192), GEOM(4096, 2, 2048));
	tx_put(&s, msg_ack(buf, 6), 16);
	CHECK(tx_kick(&s) == 16, "first kick on a used socket: %s", strerror(errno));
	n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, 6, 0);
	ok();
	return 0;
}
