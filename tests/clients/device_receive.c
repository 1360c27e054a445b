/* device_receive NODE ring|read MODE: what rules with `receive` (tests/device/receive.rs) let through.
 * answers       requests of six families: which answers arrive, and which do not
 * audited       the same where nothing is withheld
 * workload      links, and what happens to them and their addresses, without a witness
 * links         of two lent groups of route, one kind of message
 * monitor YES   a lent group of generic netlink: what it is sent is named, or not
 * vlans         a lent group above 32
 * events        of the kernel's events, one word
 * Each is beside a witness: a socket of its own that hears everything. Root stirs meanwhile. */
#include "device.h"
#include <arpa/inet.h>
#include <linux/ethtool_netlink.h>
#include <linux/genetlink.h>
#include <linux/inet_diag.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <linux/xfrm.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

static const char *node;
static int ring;
static char buf[1 << 16];
static unsigned seq = 100;
static int audited;

/* A socket of ours, by the node. */
static void begin(struct device *d, int family)
{
	device_open(d, node, family);
	if (ring)
		device_rings(d, 65536, 4, 16384);
}

static size_t next(struct device *d)
{
	ssize_t len;
	if (ring)
		return device_next(d, buf, sizeof buf, wait_poll);
	wait_poll(d);
	/* Told early, there were nothing to read. */
	CALL(len = read(d->fd, buf, sizeof buf));
	return len;
}

static int is_silent(struct device *d, int millis)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	return poll(&p, 1, millis) == 0;
}

/* Sends a request and reads to its end: how many messages came of it, and that they are of this type. */
static int ask(struct device *d, int type, int flags, const void *payload, size_t len, int reply)
{
	char req[512];
	struct nlmsghdr *n = request(req, type, flags | NLM_F_ACK, ++seq, len), *m;
	int count = 0, left;
	memcpy(NLMSG_DATA(n), payload, len);
	if (ring)
		CHECK(device_send(d, n, NULL) == 0, "the kick: %s", strerror(errno));
	else
		CHECK(write(d->fd, n, n->nlmsg_len) == (ssize_t)n->nlmsg_len, "write: %s", strerror(errno));
	for (;;)
		for (left = next(d), m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
			if (m->nlmsg_seq != seq)
				continue;
			if (m->nlmsg_type == NLMSG_DONE)
				return count;
			if (m->nlmsg_type == NLMSG_ERROR) {
				int error = ((struct nlmsgerr *)NLMSG_DATA(m))->error;
				CHECK(!error, "type %d of request %u: %s", type, seq, strerror(-error));
				if (!(flags & NLM_F_DUMP))
					return count;
				continue;
			}
			CHECK(m->nlmsg_type == reply, "type %d answers %d, not %d", m->nlmsg_type, type, reply);
			count++;
		}
}

#define ARRIVES(...) CHECK(ask(__VA_ARGS__) > 0, "%s does not arrive", #__VA_ARGS__)
#define STAYS_AWAY(...) CHECK((ask(__VA_ARGS__) == 0) != audited, "%s arrives, or not in an audit", #__VA_ARGS__)

static void answers(void)
{
	struct ifinfomsg link = { .ifi_family = AF_UNSPEC };
	struct ifaddrmsg addr = { .ifa_family = AF_UNSPEC };
	struct rtmsg route = { .rtm_family = AF_INET };
	struct nfgenmsg nf = { .nfgen_family = AF_UNSPEC };
	struct { struct genlmsghdr g; struct nlattr a; char name[8]; } ctrl = { { CTRL_CMD_GETFAMILY, 2, 0 }, { 11, CTRL_ATTR_FAMILY_NAME }, "nlctrl" };
	struct inet_diag_req_v2 inet = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = -1 };
	struct unix_diag_req local = { .sdiag_family = AF_UNIX, .udiag_states = -1 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned info = 0;
	struct device d;
	int i, pair[2], tcp;

	begin(&d, NETLINK_ROUTE);
	for (i = 0; i < 3; i++) {
		STAYS_AWAY(&d, RTM_GETADDR, NLM_F_DUMP, &addr, sizeof addr, RTM_NEWADDR);
		ARRIVES(&d, RTM_GETLINK, NLM_F_DUMP, &link, sizeof link, RTM_NEWLINK);
		/* No rule is about it: the client's own right, and all of it. */
		ARRIVES(&d, RTM_GETROUTE, NLM_F_DUMP, &route, sizeof route, RTM_NEWROUTE);
	}
	close(d.fd);

	begin(&d, NETLINK_NETFILTER);
	STAYS_AWAY(&d, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS, 0, &nf, sizeof nf, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS);
	ARRIVES(&d, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0, &nf, sizeof nf, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN);
	close(d.fd);

	begin(&d, NETLINK_GENERIC);
	STAYS_AWAY(&d, GENL_ID_CTRL, 0, &ctrl, NLMSG_ALIGN(sizeof ctrl.g + 11), GENL_ID_CTRL);
	close(d.fd);

	CALL(tcp = socket(AF_INET, SOCK_STREAM, 0));
	CALL(bind(tcp, (void *)&to, sizeof to));
	CALL(listen(tcp, 1));
	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	begin(&d, NETLINK_SOCK_DIAG);
	STAYS_AWAY(&d, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &inet, sizeof inet, SOCK_DIAG_BY_FAMILY);
	ARRIVES(&d, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &local, sizeof local, SOCK_DIAG_BY_FAMILY);
	close(d.fd);

	begin(&d, NETLINK_XFRM);
	STAYS_AWAY(&d, XFRM_MSG_GETSPDINFO, 0, &info, sizeof info, XFRM_MSG_NEWSPDINFO);
	ARRIVES(&d, XFRM_MSG_GETSADINFO, 0, &info, sizeof info, XFRM_MSG_NEWSADINFO);
	close(d.fd);
}

static void join(struct device *d, unsigned group)
{
	CHECK(!ioctl(d->fd, NLMMAP_ADD_MEMBERSHIP, &group), "group %u: %s", group, strerror(errno));
}

static int witness(int family, unsigned group)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	int fd, all = 1 << 20;
	CALL(fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family));
	CALL(bind(fd, (void *)&any, sizeof any));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &all, sizeof all);
	CALL(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	return fd;
}

/* Waits until the witness has heard of `count` messages of a type that is not let through. */
static void hears(int fd, int type, int count)
{
	static char more[1 << 16];
	struct nlmsghdr *m;
	int left;
	while (count > 0) {
		CALL(left = recv(fd, more, sizeof more, 0));
		for (m = (void *)more; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
			count -= m->nlmsg_type == type;
	}
}

static void links(void)
{
	int left, i = 0, other = witness(NETLINK_ROUTE, RTNLGRP_IPV4_IFADDR);
	struct nlmsghdr *m;
	struct device d;
	begin(&d, NETLINK_ROUTE);
	join(&d, RTNLGRP_IPV4_IFADDR);
	join(&d, RTNLGRP_LINK);
	while (i < 20)
		for (left = next(&d), m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left), i++)
			CHECK(m->nlmsg_type == RTM_NEWLINK, "a message of type %d", m->nlmsg_type);
	hears(other, RTM_NEWADDR, 5);
	hears(other, RTM_DELADDR, 5);
}

static void workload(void)
{
	struct ifinfomsg link = { .ifi_family = AF_UNSPEC };
	int left, seen = 0;
	struct nlmsghdr *m;
	struct device d;
	begin(&d, NETLINK_ROUTE);
	ARRIVES(&d, RTM_GETLINK, NLM_F_DUMP, &link, sizeof link, RTM_NEWLINK);
	join(&d, RTNLGRP_LINK);
	join(&d, RTNLGRP_IPV4_IFADDR);
	while (seen != 7)
		for (left = next(&d), m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
			seen |= m->nlmsg_type == RTM_NEWLINK ? 1 : m->nlmsg_type == RTM_NEWADDR ? 2 : m->nlmsg_type == RTM_DELADDR ? 4 : 0;
}

/* The numbers of ethtool's family and of its group. */
static void resolve(unsigned *family, unsigned *group)
{
	struct { struct nlmsghdr n; struct genlmsghdr g; struct nlattr a; char name[8]; } req = {
		{ sizeof req, GENL_ID_CTRL, NLM_F_REQUEST, 1, 0 }, { CTRL_CMD_GETFAMILY, 2, 0 }, { 12, CTRL_ATTR_FAMILY_NAME }, "ethtool" };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int fd, len, rest, inner;
	char *a, *g, *b;
	CALL(fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
	CALL(sendto(fd, &req, sizeof req, 0, (void *)&kernel, sizeof kernel));
	CALL(len = recv(fd, buf, sizeof buf, 0));
	if (((struct nlmsghdr *)buf)->nlmsg_type == NLMSG_ERROR)
		exit(77);
#define LEN(x) (((struct nlattr *)(x))->nla_len)
#define TYPE(x) (((struct nlattr *)(x))->nla_type & NLA_TYPE_MASK)
#define ALL(x, in, size, left) for (x = (in), left = (size); left >= NLA_HDRLEN && LEN(x) >= NLA_HDRLEN; left -= NLA_ALIGN(LEN(x)), x += NLA_ALIGN(LEN(x)))
	ALL(a, buf + NLMSG_HDRLEN + GENL_HDRLEN, len - NLMSG_HDRLEN - GENL_HDRLEN, rest) {
		if (TYPE(a) == CTRL_ATTR_FAMILY_ID)
			*family = *(unsigned short *)(a + NLA_HDRLEN);
		if (TYPE(a) != CTRL_ATTR_MCAST_GROUPS)
			continue;
		for (g = a + NLA_HDRLEN; g < a + LEN(a); g += NLA_ALIGN(LEN(g)))
			ALL(b, g + NLA_HDRLEN, LEN(g) - NLA_HDRLEN, inner)
				if (TYPE(b) == CTRL_ATTR_MCAST_GRP_ID)
					*group = *(unsigned *)(b + NLA_HDRLEN);
	}
	close(fd);
}

static void monitor(int wanted)
{
	unsigned family = 0, group = 0;
	int other, i;
	struct device d;
	resolve(&family, &group);
	CHECK(family && group, "family %u, group %u", family, group);
	other = witness(NETLINK_GENERIC, group);
	begin(&d, NETLINK_GENERIC);
	join(&d, group);
	for (i = 0; i < 3; i++) {
		if (wanted) {
			struct nlmsghdr *m = (void *)buf;
			next(&d);
			CHECK(m->nlmsg_type == family && ((struct genlmsghdr *)NLMSG_DATA(m))->cmd == ETHTOOL_MSG_FEATURES_NTF, "type %u", m->nlmsg_type);
		}
		hears(other, family, 1);
	}
	CHECK(wanted || is_silent(&d, 300), "it was woken");
}

/* A group above 32, which the address of a message does not tell. Bridges may be a module that is not there. */
static void vlans(void)
{
	struct { struct nlmmap_opt o; unsigned value; } opt = { .o = { .level = SOL_NETLINK, .name = NETLINK_PKTINFO, .len = 4 }, .value = 7 };
	int left, i = 0, other = witness(NETLINK_ROUTE, RTNLGRP_BRVLAN);
	struct pollfd p = { .fd = other, .events = POLLIN };
	struct nlmsghdr *m;
	struct device d;
	if (poll(&p, 1, 5000) == 0)
		exit(77);
	begin(&d, NETLINK_ROUTE);
	join(&d, RTNLGRP_BRVLAN);
	while (i < 10)
		for (left = next(&d), m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left), i++)
			CHECK(m->nlmsg_type == RTM_NEWVLAN, "a message of type %d", m->nlmsg_type);
	hears(other, RTM_DELVLAN, 5);
	/* It has not asked to be told groups. */
	CALL(ioctl(d.fd, NLMMAP_GETOPT(4), &opt));
	CHECK(opt.value == 0, "NETLINK_PKTINFO is %u", opt.value);
}

static void events(void)
{
	static char more[1 << 16];
	int other = witness(NETLINK_KOBJECT_UEVENT, 1), len, i;
	struct device d;
	begin(&d, NETLINK_KOBJECT_UEVENT);
	join(&d, 1);
	for (i = 0; i < 10; i++) {
		len = next(&d);
		CHECK(len > 7 && !memcmp(buf, "remove@", 7), "event %.20s", buf);
	}
	for (i = 0; i < 5;) {
		CALL(len = recv(other, more, sizeof more, 0));
		i += !memcmp(more, "add@", 4);
	}
}

int main(int argc, char **argv)
{
	CHECK(argc >= 4, "usage: device_receive NODE ring|read MODE");
	node = argv[1];
	ring = !strcmp(argv[2], "ring");
	alarm(50);
	audited = !strcmp(argv[3], "audited");
	if (audited || !strcmp(argv[3], "answers"))
		answers();
	else if (!strcmp(argv[3], "workload"))
		workload();
	else if (!strcmp(argv[3], "links"))
		links();
	else if (!strcmp(argv[3], "monitor"))
		monitor(atoi(argv[4]));
	else if (!strcmp(argv[3], "vlans"))
		vlans();
	else
		events();
	puts("as named");
	return 0;
}
