/* A client that may nothing: it reads what anybody may read, and what it may not do it is refused, by the kernel's own
 * words, whoever does its socket calls. */
#include "msg.h"

static struct sock s;
static char buf[16384];

static void answered(int type, int flags, int error, uint32_t seq)
{
	struct nlmsghdr *n = msg(buf, type, NLM_F_ACK | flags, seq, sizeof(struct ifinfomsg));
	struct ifinfomsg *i = NLMSG_DATA(n);
	i->ifi_index = 1;
	i->ifi_flags = i->ifi_change = IFF_UP;
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) == (ssize_t)n->nlmsg_len, "kick: %s", strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 3000), seq, error);
}

int main(void)
{
	int value = 1 << 20, links = 0, done = 0;
	struct nlmsghdr *n;
	ssize_t len;

	CHECK(geteuid() != 0, "this client is about other users than root");
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 2, 2048));
	tx_put(&s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(&s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		len = rx_take(&s, buf, sizeof buf, NULL, 3000);
		for (n = (struct nlmsghdr *)buf; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			links += n->nlmsg_type == RTM_NEWLINK;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	CHECK(links >= 1, "a dump without lo");
	answered(RTM_NEWLINK, 0, -EPERM, 8);
	answered(RTM_DELLINK, 0, -EPERM, 9);
	CHECK(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &value, sizeof value) < 0 && errno == EPERM,
	      "a buffer beyond the limit: %s", strerror(errno));
	CHECK(plain_send(s.fd, msg_ack(buf, 11), 16, 4242, 0) < 0 && errno == EPERM, "to a port of ROUTE: %s",
	      strerror(errno));
	ok();
	return 0;
}
