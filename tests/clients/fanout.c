/* Multicasts reach ring clients, plain listeners and a tap on nlmon side by side (complaint 3: no
 * skb_clone of ring memory). argv[1] "tap" needs the nlmon device. */
#include "msg.h"
#include <linux/if_packet.h>
#include <arpa/inet.h>

enum { RINGS = 3, TOTAL = 500, GROUP = 9 };

static int open_tap(void)
{
	char buf[512];
	int fd = plain_open(NETLINK_ROUTE), tap;
	struct nlmsghdr *n = msg(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, 1, sizeof(struct ifinfomsg));
	struct nlattr *info;
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(3 /* ETH_P_ALL */) };
	int big = 16 << 20;
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_flags = ((struct ifinfomsg *)NLMSG_DATA(n))->ifi_change = IFF_UP;
	attr(n, IFLA_IFNAME, "nlmon0", 7);
	info = nest(n, IFLA_LINKINFO);
	attr(n, 1 /* IFLA_INFO_KIND */, "nlmon", 6);
	nest_end(n, info);
	CHECK_CALL(plain_send(fd, n, n->nlmsg_len, 0, 0));
	CHECK(recv(fd, buf, sizeof buf, 0) >= 36, "recv: %s", strerror(errno));
	if (((struct nlmsgerr *)NLMSG_DATA(buf))->error)
		LACKING("nlmon devices: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(buf))->error));
	close(fd);
	a.sll_ifindex = if_nametoindex("nlmon0");
	CHECK_CALL(tap = socket(AF_PACKET, SOCK_RAW, htons(3)));
	CHECK_CALL(bind(tap, (struct sockaddr *)&a, sizeof a));
	CHECK_CALL(setsockopt(tap, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	return tap;
}

int main(int argc, char **argv)
{
	int tap = argc > 1 && !strcmp(argv[1], "tap") ? open_tap() : -1;
	struct sock s[RINGS], tx;
	int plain = plain_open(NETLINK_USERSOCK), group = GROUP, i, r, tapped = 0;
	char buf[4096], out[4096];

	CHECK_CALL(setsockopt(plain, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	for (r = 0; r < RINGS; r++) {
		s[r] = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
		CHECK_CALL(setsockopt(s[r].fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	}
	tx = ring_open(NETLINK_USERSOCK, NO_RING, GEOM(4096, 2, 4096));
	for (i = 0; i < TOTAL; i++) {
		size_t len = 64 + i * 13 % 2500;
		tx_put(&tx, msg_user(out, len, i), len);
		/* The unicast to port 0 that follows is refused: USERSOCK has no kernel half. */
		CHECK(tx_kick_to(&tx, 0, 1u << (GROUP - 1)) == -1 && errno == ECONNREFUSED, "multicast by kick: %s",
		      strerror(errno));
		for (r = 0; r < RINGS; r++) {
			struct nl_mmap_hdr meta;
			ssize_t n = rx_take(&s[r], buf, sizeof buf, &meta, 1000);
			check_user(buf, n, i);
			CHECK(meta.nm_group == GROUP, "nm_group %u", meta.nm_group);
		}
		check_user(buf, recv(plain, buf, sizeof buf, 0), i);
		while (tap >= 0) {
			ssize_t n = recv(tap, buf, sizeof buf, MSG_DONTWAIT);
			if (n < 0)
				break;
			if ((size_t)n == len && !memcmp(buf, out, len))
				tapped = i + 1;
		}
		CHECK(tap < 0 || tapped == i + 1, "multicast %d did not pass the tap", i);
	}
	ok();
	return 0;
}
