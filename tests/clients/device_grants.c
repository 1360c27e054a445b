/* device_grants NODE ring|write: tries one thing after the other and prints the errno of each (tests/device/table.rs). Under a
 * policy that denies what no rule grants, only what a rule names is anything else than EPERM. */
#include "device.h"
#include <arpa/inet.h>
#include <linux/genetlink.h>
#include <linux/inet_diag.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <linux/xfrm.h>
#include <netinet/in.h>

static const char *node;
static int ring;
static unsigned seq = 1;
static char buf[1 << 16], out[4096];
static size_t len;

/* Adds a message to the datagram. */
static void add(int type, int flags, const void *payload, size_t size)
{
	struct nlmsghdr *n = (void *)(out + len);
	CHECK(len + NLMSG_SPACE(size) <= sizeof out, "too long");
	request(n, type, flags, ++seq, size);
	memcpy(NLMSG_DATA(n), payload, size);
	len += NLMSG_SPACE(size);
}

/* Sends the datagram, and gives the error of the request with the last number but `behind`. */
static void send_it(const char *name, int family, int behind)
{
	struct nlmmap_kick kick = { .sent = 0 };
	struct device d;
	ssize_t got;
	device_open(&d, node, family);
	if (ring) {
		struct nl_mmap_hdr *h;
		device_rings(&d, 65536, 4, 16384);
		h = frame_at(&d, d.rx_len, 0);
		memcpy((char *)h + NL_MMAP_HDRLEN, out, len);
		h->nm_len = len;
		set_status(h, NL_MMAP_STATUS_VALID);
		CALL(ioctl(d.fd, NLMMAP_KICK, &kick));
		CHECK(kick.sent == len, "%s: the kick sent %llu", name, (unsigned long long)kick.sent);
	} else {
		CHECK(write(d.fd, out, len) == (ssize_t)len, "%s: write: %s", name, strerror(errno));
	}
	for (;;) {
		struct nlmsghdr *n = (void *)buf;
		if (ring)
			got = device_next(&d, buf, sizeof buf, wait_poll);
		else
			CALL(got = read(d.fd, buf, sizeof buf));
		for (; NLMSG_OK(n, got); n = NLMSG_NEXT(n, got)) {
			if (n->nlmsg_seq != seq - behind || (n->nlmsg_type != NLMSG_ERROR && n->nlmsg_type != NLMSG_DONE))
				continue;
			printf("%s %d\n", name, n->nlmsg_type == NLMSG_DONE ? 0 : -((struct nlmsgerr *)NLMSG_DATA(n))->error);
			close(d.fd);
			len = 0;
			return;
		}
	}
}

static void one(const char *name, int family, int type, int flags, const void *payload, size_t size)
{
	add(type, flags, payload, size);
	send_it(name, family, 0);
}

static void join(const char *name, int family, unsigned group)
{
	struct device d;
	device_open(&d, node, family);
	printf("%s %d\n", name, ioctl(d.fd, NLMMAP_ADD_MEMBERSHIP, &group) ? errno : 0);
	close(d.fd);
}

struct numbered {
	struct nfgenmsg g;
	struct nlattr a;
	unsigned char command[4];
};

int main(int argc, char **argv)
{
	struct ifinfomsg link = { .ifi_index = 1, .ifi_flags = 1, .ifi_change = 1 };
	struct rtmsg route = { .rtm_family = AF_INET };
	struct nfgenmsg nf = { AF_UNSPEC, 0, 0 }, batch = { AF_UNSPEC, 0, htons(NFNL_SUBSYS_NFTABLES) };
	struct numbered queue = { { AF_UNSPEC, 0, htons(7) }, { 8, NFQA_CFG_CMD }, { NFQNL_CFG_CMD_BIND, 0, 0, AF_INET } };
	struct numbered group = { { AF_UNSPEC, 0, htons(3) }, { 5, NFULA_CFG_CMD }, { NFULNL_CFG_CMD_BIND, 0, 0, 0 } };
	struct { struct nfgenmsg g; struct nlattr a; char name[4]; } table = { { NFPROTO_IPV4, 0, 0 }, { 8, NFTA_TABLE_NAME }, "t9" };
	struct { struct genlmsghdr g; struct nlattr a; char name[8]; } ctrl = { { CTRL_CMD_GETFAMILY, 2, 0 }, { 11, CTRL_ATTR_FAMILY_NAME }, "nlctrl" };
	struct inet_diag_req_v2 inet = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = -1 };
	struct unix_diag_req local = { .sdiag_family = AF_UNIX, .udiag_states = -1 };
	unsigned info = 0;

	CHECK(argc == 3, "usage: %s NODE ring|write", argv[0]);
	node = argv[1];
	ring = !strcmp(argv[2], "ring");
	alarm(50);
	one("setlink", NETLINK_ROUTE, RTM_SETLINK, NLM_F_ACK, &link, sizeof link);
	one("getroute", NETLINK_ROUTE, RTM_GETROUTE, NLM_F_DUMP, &route, sizeof route);
	one("queue", NETLINK_NETFILTER, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, &queue, sizeof queue);
	one("log", NETLINK_NETFILTER, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, NLM_F_ACK, &group, sizeof group);
	one("conntrack", NETLINK_NETFILTER, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK, &nf, sizeof nf);
	one("generation", NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_ACK, &nf, sizeof nf);
	add(NFNL_MSG_BATCH_BEGIN, 0, &batch, sizeof batch);
	add(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, &table, sizeof table);
	add(NFNL_MSG_BATCH_END, 0, &batch, sizeof batch);
	send_it("table", NETLINK_NETFILTER, 1);
	one("controller", NETLINK_GENERIC, GENL_ID_CTRL, NLM_F_ACK, &ctrl, NLMSG_ALIGN(sizeof ctrl.g + 11));
	one("inet", NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &inet, sizeof inet);
	one("unix", NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &local, sizeof local);
	one("destroy", NETLINK_SOCK_DIAG, SOCK_DESTROY, NLM_F_ACK, &inet, sizeof inet);
	one("associations", NETLINK_XFRM, XFRM_MSG_GETSADINFO, NLM_F_ACK, &info, sizeof info);
	join("link", NETLINK_ROUTE, RTNLGRP_LINK);
	join("nftables", NETLINK_NETFILTER, NFNLGRP_NFTABLES);
	join("acquire", NETLINK_XFRM, XFRMNLGRP_ACQUIRE);
	join("events", NETLINK_KOBJECT_UEVENT, 1);
	return 0;
}
