/* The other families that clients used (argv[1]): route events, generic netlink, socket diagnosis,
 * uevents; each against what it must show. */
#include "nf.h"
#include <linux/genetlink.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

static char buf[131072];

static void add_address(int cmd, uint32_t address)
{
	struct nlmsghdr *n = msg(buf, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, 1, sizeof(struct ifaddrmsg));
	struct ifaddrmsg a = { .ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_scope = RT_SCOPE_HOST, .ifa_index = 1 };
	memcpy(NLMSG_DATA(n), &a, sizeof a);
	attr_be32(n, IFA_LOCAL, address);
	plain_request(cmd, n);
}

/* Ten addresses at a time are made, then their ten events are read: each once, in order. */
static void route_events(void)
{
	enum { TOTAL = 1500, STEP = 10 };
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(16384, 16, 2048), NO_RING);
	int group = RTNLGRP_IPV4_IFADDR, cmd = plain_open(NETLINK_ROUTE), big = 4 << 20;
	uint32_t made, heard = 0, first = 0x0a000000;
	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	lo_up();
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	for (made = 0; made < TOTAL;) {
		int i;
		for (i = 0; i < STEP; i++)
			add_address(cmd, first + made++);
		for (; heard < made; heard++) {
			const struct nlattr *a;
			struct nl_mmap_hdr meta;
			const struct nlmsghdr *n = (struct nlmsghdr *)buf;
			rx_take(&s, buf, sizeof buf, &meta, 2000);
			CHECK(n->nlmsg_type == RTM_NEWADDR, "event type %u", n->nlmsg_type);
			a = find_attr(n, sizeof(struct ifaddrmsg), IFA_LOCAL);
			CHECK(a && get_be32(a) == first + heard, "event %u is of %08x", heard, a ? get_be32(a) : 0);
			CHECK(meta.nm_group == RTNLGRP_IPV4_IFADDR && meta.nm_pid == 0, "group %u pid %u", meta.nm_group,
			      meta.nm_pid);
		}
	}
	CHECK(!ready(&s.rx), "more events than addresses");
}

static struct nlmsghdr *genl(int flags, uint32_t seq, int cmd)
{
	struct nlmsghdr *n = msg(buf, GENL_ID_CTRL, flags, seq, GENL_HDRLEN);
	*(struct genlmsghdr *)NLMSG_DATA(n) = (struct genlmsghdr){ cmd, 2, 0 };
	return n;
}

static void generic(void)
{
	struct sock s = ring_open(NETLINK_GENERIC, GEOM(16384, 4, 8192), GEOM(4096, 1, 2048));
	struct nlmsghdr *n = genl(NLM_F_ACK, 1, CTRL_CMD_GETFAMILY);
	const struct nlattr *a;
	uint16_t id;
	int families = 0, done = 0, ctrl = 0;
	ssize_t len;

	attr(n, CTRL_ATTR_FAMILY_NAME, "nlctrl", 7);
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) > 0, "kick: %s", strerror(errno));
	rx_take(&s, buf, sizeof buf, NULL, 2000);
	a = find_attr((struct nlmsghdr *)buf, GENL_HDRLEN, CTRL_ATTR_FAMILY_ID);
	CHECK(a, "nlctrl has no id");
	memcpy(&id, attr_data(a), 2);
	CHECK(id == GENL_ID_CTRL, "nlctrl has id %u", id);
	len = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, len, 1, 0);

	n = genl(0, 2, CTRL_CMD_GETFAMILY);
	attr(n, CTRL_ATTR_FAMILY_NAME, "no-such-family", 15);
	CHECK_CALL(plain_send(s.fd, n, n->nlmsg_len, 0, 0));
	len = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, len, 2, -ENOENT);

	n = genl(NLM_F_DUMP, 3, CTRL_CMD_GETFAMILY);
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) > 0, "kick: %s", strerror(errno));
	while (!done) {
		len = rx_take(&s, buf, sizeof buf, NULL, 2000);
		for (n = (struct nlmsghdr *)buf; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			if (n->nlmsg_type == NLMSG_DONE) {
				done = 1;
				continue;
			}
			a = find_attr(n, GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME);
			CHECK(a, "a family without name");
			ctrl += !strcmp(attr_data(a), "nlctrl");
			families++;
		}
	}
	CHECK(families >= 2 && ctrl == 1, "%d families, nlctrl %d times", families, ctrl);
}

/* As many listening sockets as we opened, each port once. */
static void diagnosis(void)
{
	enum { TOTAL = 800, FIRST = 20000 };
	struct sock s = ring_open(NETLINK_SOCK_DIAG, GEOM(4096, 8, 4096), GEOM(4096, 1, 2048));
	static unsigned char seen[65536];
	struct nlmsghdr *n;
	struct inet_diag_req_v2 r = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << 10 };
	int i, count = 0, done = 0;
	lo_up();
	for (i = 0; i < TOTAL; i++) {
		struct sockaddr_in a = udp_address(FIRST + i);
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(fd >= 0, "socket: %s", strerror(errno));
		CHECK_CALL(bind(fd, (struct sockaddr *)&a, sizeof a));
		CHECK_CALL(listen(fd, 1));
	}
	n = msg(buf, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, 5, sizeof r);
	memcpy(NLMSG_DATA(n), &r, sizeof r);
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) > 0, "kick: %s", strerror(errno));
	while (!done) {
		ssize_t len = rx_take(&s, buf, sizeof buf, NULL, 2000);
		for (n = (struct nlmsghdr *)buf; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			const struct inet_diag_msg *d = NLMSG_DATA(n);
			if (n->nlmsg_type == NLMSG_DONE) {
				done = 1;
				continue;
			}
			CHECK(n->nlmsg_type == SOCK_DIAG_BY_FAMILY, "type %u", n->nlmsg_type);
			CHECK(!seen[ntohs(d->id.idiag_sport)]++, "port %u twice", ntohs(d->id.idiag_sport));
			count++;
		}
	}
	CHECK(count == TOTAL, "%d of %d sockets", count, TOTAL);
}

/* Devices appear and go; uevents are plain text, not netlink messages. */
static void uevents(void)
{
	struct sock s = ring_open(NETLINK_KOBJECT_UEVENT, GEOM(16384, 8, 2048), NO_RING);
	int cmd = plain_open(NETLINK_ROUTE), group = 1, i, big = 4 << 20;
	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	for (i = 0; i < 40; i++) {
		char name[16], want[64];
		struct nl_mmap_hdr meta;
		struct nlmsghdr *n = msg(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, i, sizeof(struct ifinfomsg));
		struct nlattr *info;
		snprintf(name, sizeof name, "dev%d", i);
		attr(n, IFLA_IFNAME, name, strlen(name) + 1);
		info = nest(n, IFLA_LINKINFO);
		attr(n, 1 /* IFLA_INFO_KIND */, "ifb", 4);
		nest_end(n, info);
		CHECK_CALL(plain_send(cmd, n, n->nlmsg_len, 0, 0));
		CHECK(recv(cmd, buf, sizeof buf, 0) >= 36, "recv: %s", strerror(errno));
		if (((struct nlmsgerr *)NLMSG_DATA(buf))->error)
			LACKING("ifb devices: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(buf))->error));
		snprintf(want, sizeof want, "add@/devices/virtual/net/dev%d", i);
		rx_take(&s, buf, sizeof buf, &meta, 2000);
		CHECK(!strcmp(buf, want), "uevent %.60s in place of %s", buf, want);
		CHECK(meta.nm_group == 1 && meta.nm_pid == 0 && meta.nm_uid == 0, "group %u pid %u uid %u", meta.nm_group,
		      meta.nm_pid, meta.nm_uid);
		/* queues of the device follow */
		while (poll(&(struct pollfd){ s.fd, POLLIN, 0 }, 1, 20) > 0) {
			CHECK(ready(&s.rx), "POLLIN without a frame");
			CHECK(rx_next(&s, buf, sizeof buf, NULL) > 0, "an empty uevent");
			CHECK(!strncmp(buf, "add@/devices/virtual/net/dev", 28), "uevent %.60s", buf);
		}
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "route";
	if (!strcmp(mode, "route"))
		route_events();
	else if (!strcmp(mode, "generic"))
		generic();
	else if (!strcmp(mode, "diag"))
		diagnosis();
	else if (!strcmp(mode, "uevent"))
		uevents();
	else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
