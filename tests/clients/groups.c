/* A multicast group above 32, which no sockaddr bit mask can name: bridge VLAN events (33). The
 * frame's nm_group tells it. Joined before the rings, then by a second socket after mmap. */
#include "msg.h"
#include <linux/if_bridge.h>
#include <linux/if_link.h>

enum { GROUP_BRVLAN = 33, NEWVLAN = 112 };

static void make_bridge(int fd)
{
	char buf[1024];
	struct nlmsghdr *n = msg(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 1, sizeof(struct ifinfomsg));
	struct nlattr *info, *data;
	unsigned char on = 1;
	ssize_t r;
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_flags = ((struct ifinfomsg *)NLMSG_DATA(n))->ifi_change = IFF_UP;
	attr(n, IFLA_IFNAME, "br0", 4);
	info = nest(n, IFLA_LINKINFO);
	attr(n, IFLA_INFO_KIND, "bridge", 7);
	data = nest(n, IFLA_INFO_DATA);
	attr(n, IFLA_BR_VLAN_FILTERING, &on, 1);
	nest_end(n, data);
	nest_end(n, info);
	n->nlmsg_flags |= NLM_F_ACK;
	CHECK_CALL(plain_send(fd, n, n->nlmsg_len, 0, 0));
	r = recv(fd, buf, sizeof buf, 0);
	CHECK(r >= 36, "recv: %s", strerror(errno));
	if (((struct nlmsgerr *)NLMSG_DATA(buf))->error)
		LACKING("a VLAN filtering bridge: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(buf))->error));
}

static void add_vlan(int fd, int vid)
{
	char buf[1024];
	struct nlmsghdr *n = msg(buf, RTM_SETLINK, 0, vid, sizeof(struct ifinfomsg));
	struct ifinfomsg *i = NLMSG_DATA(n);
	struct bridge_vlan_info v = { .vid = vid };
	uint16_t self = BRIDGE_FLAGS_SELF;
	struct nlattr *spec;
	i->ifi_family = AF_BRIDGE;
	i->ifi_index = if_nametoindex("br0");
	spec = nest(n, IFLA_AF_SPEC);
	attr(n, IFLA_BRIDGE_FLAGS, &self, sizeof self);
	attr(n, IFLA_BRIDGE_VLAN_INFO, &v, sizeof v);
	nest_end(n, spec);
	plain_request(fd, n);
}

static void expect_vlan(struct sock *s)
{
	char buf[4096];
	struct nl_mmap_hdr meta;
	ssize_t n = rx_take(s, buf, sizeof buf, &meta, 2000);
	CHECK(n > 0 && ((struct nlmsghdr *)buf)->nlmsg_type == NEWVLAN, "expected a VLAN event, got type %u",
	      ((struct nlmsghdr *)buf)->nlmsg_type);
	CHECK(meta.nm_group == GROUP_BRVLAN, "nm_group is %u, the event was sent to group %d", meta.nm_group,
	      GROUP_BRVLAN);
	CHECK(meta.nm_pid == 0 && meta.nm_uid == 0, "credentials of the kernel: %u %u", meta.nm_pid, meta.nm_uid);
}

int main(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), group = GROUP_BRVLAN, cmd, i;
	struct sock before, after;

	CHECK_CALL(fd);
	if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
		LACKING("group %d of NETLINK_ROUTE", group);
	before = ring_attach(fd, GEOM(16384, 1, 2048), NO_RING);
	after = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 2048), NO_RING);
	CHECK_CALL(setsockopt(after.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	cmd = plain_open(NETLINK_ROUTE);
	make_bridge(cmd);
	while (ready(&before.rx) || poll(&(struct pollfd){ before.fd, POLLIN, 0 }, 1, 200) > 0) {
		char buf[4096];
		rx_next(&before, buf, sizeof buf, NULL);
	}
	while (ready(&after.rx) || poll(&(struct pollfd){ after.fd, POLLIN, 0 }, 1, 200) > 0) {
		char buf[4096];
		rx_next(&after, buf, sizeof buf, NULL);
	}
	for (i = 10; i < 15; i++) {
		add_vlan(cmd, i);
		expect_vlan(&before);
		expect_vlan(&after);
	}
	ok();
	return 0;
}
