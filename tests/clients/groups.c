/* A multicast group above 32, which no sockaddr bit mask can name: tunnel events (35) of a VXLAN
 * device that filters by network identifier. The frame's nm_group tells it. Joined before the rings,
 * and by a second socket after mmap. */
#include "msg.h"
#include <linux/if_link.h>

/* Kernels from 5.18 on have these; headers of the time do not. */
enum { GROUP_TUNNEL = 35, NEWTUNNEL = 120, VXLAN_COLLECT_METADATA = 25, VXLAN_VNIFILTER = 30, ENTRY = 1, ENTRY_START = 1 };

struct tunnel { uint8_t family, flags; uint16_t reserved; uint32_t ifindex; };

static void make_vxlan(int fd)
{
	char buf[1024];
	struct nlmsghdr *n = msg(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 1, sizeof(struct ifinfomsg));
	struct nlattr *info, *data;
	unsigned char on = 1;
	ssize_t r;
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_flags = ((struct ifinfomsg *)NLMSG_DATA(n))->ifi_change = IFF_UP;
	attr(n, IFLA_IFNAME, "vx0", 4);
	info = nest(n, IFLA_LINKINFO);
	attr(n, IFLA_INFO_KIND, "vxlan", 6);
	data = nest(n, IFLA_INFO_DATA);
	attr(n, VXLAN_COLLECT_METADATA, &on, 1);
	attr(n, VXLAN_VNIFILTER, &on, 1);
	nest_end(n, data);
	nest_end(n, info);
	n->nlmsg_flags |= NLM_F_ACK;
	CHECK_CALL(plain_send(fd, n, n->nlmsg_len, 0, 0));
	r = recv(fd, buf, sizeof buf, 0);
	CHECK(r >= 36, "recv: %s", strerror(errno));
	if (((struct nlmsgerr *)NLMSG_DATA(buf))->error)
		LACKING("a filtering VXLAN device: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(buf))->error));
}

static void add_identifier(int fd, uint32_t vni)
{
	char buf[1024];
	struct nlmsghdr *n = msg(buf, NEWTUNNEL, 0, vni, sizeof(struct tunnel));
	struct tunnel t = { AF_BRIDGE, 0, 0, if_nametoindex("vx0") };
	struct nlattr *entry;
	memcpy(NLMSG_DATA(n), &t, sizeof t);
	entry = nest(n, ENTRY);
	attr_u32(n, ENTRY_START, vni);
	nest_end(n, entry);
	plain_request(fd, n);
}

static void expect_event(struct sock *s)
{
	char buf[4096];
	struct nl_mmap_hdr meta;
	ssize_t n = rx_take(s, buf, sizeof buf, &meta, 2000);
	CHECK(n > 0 && ((struct nlmsghdr *)buf)->nlmsg_type == NEWTUNNEL, "expected a tunnel event, got type %u",
	      ((struct nlmsghdr *)buf)->nlmsg_type);
	CHECK(meta.nm_group == GROUP_TUNNEL, "nm_group is %u, the event was sent to group %d", meta.nm_group,
	      GROUP_TUNNEL);
	CHECK(meta.nm_pid == 0 && meta.nm_uid == 0, "credentials of the kernel: %u %u", meta.nm_pid, meta.nm_uid);
}

int main(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), group = GROUP_TUNNEL, cmd, i;
	struct sock before, after;

	struct sockaddr_nl self = { .nl_family = AF_NETLINK };

	CHECK_CALL(fd);
	/* A member without a port id never gets what the kernel sends (do_one_broadcast leaves out the sender's own, 0). */
	CHECK_CALL(bind(fd, (struct sockaddr *)&self, sizeof self));
	if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
		LACKING("group %d of NETLINK_ROUTE", group);
	before = ring_attach(fd, GEOM(16384, 1, 2048), NO_RING);
	after = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 2048), NO_RING);
	CHECK_CALL(setsockopt(after.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	cmd = plain_open(NETLINK_ROUTE);
	make_vxlan(cmd);
	for (i = 10; i < 15; i++) {
		add_identifier(cmd, i);
		expect_event(&before);
		expect_event(&after);
	}
	ok();
	return 0;
}
