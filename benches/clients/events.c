/* events.c WAY KIND COUNT: COUNT messages that the kernel itself makes, in a network namespace of its own, while another
 * process gives it reason to; at most WINDOW of them are under way.
 *
 * route       a route is added and deleted: RTM_NEWROUTE, RTM_DELROUTE
 * conntrack   an entry is created and deleted: IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE
 * nflog       a packet of 64 bytes is logged: NFULNL_MSG_PACKET */
#include "way.h"
#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

enum { GROUP = 7, PORT = 9999, WINDOW = 1024, AT_ONCE = 32 };
enum kind { ROUTE, CONNTRACK, NFLOG };

static volatile uint64_t *words; /* 0: go, 1: messages seen */
static uint64_t seen, sum;
static enum kind kind;

static inline void take(struct chan *c, const char *m, size_t len)
{
	const struct nlmsghdr *n = (const void *)m;
	static const uint16_t first[] = { RTM_NEWROUTE, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW,
					  NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET };
	static const uint16_t second[] = { RTM_DELROUTE, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
					   NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET };
	(void)c;
	CHECK(len >= n->nlmsg_len && n->nlmsg_type == (seen % 2 ? second[kind] : first[kind]),
	      "message %lu of type %x", seen, n->nlmsg_type);
	for (size_t i = sizeof *n; i < len; i += 64)
		sum += (unsigned char)m[i];
	seen++;
}

static struct nlattr *put(struct nlmsghdr *n, int type, const void *data, size_t len)
{
	struct nlattr *a = (void *)((char *)n + NLMSG_ALIGN(n->nlmsg_len));
	*a = (struct nlattr){ NLA_HDRLEN + len, type };
	if (len)
		memcpy(a + 1, data, len);
	n->nlmsg_len = NLMSG_ALIGN(n->nlmsg_len) + NLA_ALIGN(a->nla_len);
	return a;
}

static void put_be32(struct nlmsghdr *n, int type, uint32_t v)
{
	v = htonl(v);
	put(n, type, &v, sizeof v);
}

static void close_nest(struct nlmsghdr *n, struct nlattr *a)
{
	a->nla_len = (char *)n + n->nlmsg_len - (char *)a;
}

static struct nlmsghdr *netfilter(void *at, int type, int flags, int family, int res)
{
	struct nlmsghdr *n = at;
	memset(n, 0, 512);
	*n = (struct nlmsghdr){ NLMSG_SPACE(sizeof(struct nfgenmsg)), type, NLM_F_REQUEST | flags, 1, 0 };
	*(struct nfgenmsg *)NLMSG_DATA(n) = (struct nfgenmsg){ family, NFNETLINK_V0, htons(res) };
	return n;
}

static void tuple(struct nlmsghdr *n, int which, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport)
{
	struct nlattr *t = put(n, which | NLA_F_NESTED, NULL, 0), *sub = put(n, CTA_TUPLE_IP | NLA_F_NESTED, NULL, 0);
	uint8_t udp = IPPROTO_UDP;
	put_be32(n, CTA_IP_V4_SRC, src);
	put_be32(n, CTA_IP_V4_DST, dst);
	close_nest(n, sub);
	sub = put(n, CTA_TUPLE_PROTO | NLA_F_NESTED, NULL, 0);
	sport = htons(sport);
	dport = htons(dport);
	put(n, CTA_PROTO_NUM, &udp, 1);
	put(n, CTA_PROTO_SRC_PORT, &sport, 2);
	put(n, CTA_PROTO_DST_PORT, &dport, 2);
	close_nest(n, sub);
	close_nest(n, t);
}

/* One request for each of two messages in turn. */
static size_t request(void *at, int second)
{
	struct nlmsghdr *n = at;
	if (kind == ROUTE) {
		uint32_t to = htonl(0x0a000001), lo = if_nametoindex("lo");
		memset(n, 0, 512);
		*n = (struct nlmsghdr){ NLMSG_LENGTH(sizeof(struct rtmsg)), second ? RTM_DELROUTE : RTM_NEWROUTE,
					NLM_F_REQUEST | (second ? 0 : NLM_F_CREATE), 1, 0 };
		*(struct rtmsg *)NLMSG_DATA(n) = (struct rtmsg){
			.rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_table = RT_TABLE_MAIN,
			.rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK, .rtm_type = RTN_UNICAST };
		put(n, RTA_DST, &to, sizeof to);
		put(n, RTA_OIF, &lo, sizeof lo);
		return n->nlmsg_len;
	}
	n = netfilter(at, NFNL_SUBSYS_CTNETLINK << 8 | (second ? IPCTNL_MSG_CT_DELETE : IPCTNL_MSG_CT_NEW),
		      second ? 0 : NLM_F_CREATE, AF_INET, 0);
	tuple(n, CTA_TUPLE_ORIG, 0x0a000001, 0x0b000001, 1000, 2000);
	if (!second) {
		tuple(n, CTA_TUPLE_REPLY, 0x0b000001, 0x0a000001, 2000, 1000);
		put_be32(n, CTA_STATUS, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
		put_be32(n, CTA_TIMEOUT, 600);
	}
	return n->nlmsg_len;
}

static void generate(uint64_t count)
{
	static char buf[AT_ONCE * 512];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = kind == NFLOG ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) :
	         socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, kind == ROUTE ? NETLINK_ROUTE : NETLINK_NETFILTER);
	size_t used = 0;
	CALL(fd);
	if (kind == NFLOG)
		CALL(connect(fd, (struct sockaddr *)&to, sizeof to));
	else
		for (int i = 0; i < AT_ONCE; i++)
			used += request(buf + used, i % 2);
	for (uint64_t sent = 0; sent < count; sent += AT_ONCE) {
		while (sent + AT_ONCE - words[1] > WINDOW)
			usleep(20);
		if (kind != NFLOG)
			CHECK(send(fd, buf, used, 0) == (ssize_t)used, "requests: %s", strerror(errno));
		else
			for (int i = 0; i < AT_ONCE; i++)
				CHECK(send(fd, buf, 64, 0) == 64 || errno == EPERM, "packet: %s", strerror(errno));
	}
	/* Errors of requests come here: none may. */
	CHECK(kind == NFLOG || (recv(fd, buf, sizeof buf, MSG_DONTWAIT) < 0 && errno == EAGAIN), "a request was refused");
	_exit(0);
}

static void join_group(int fd, int group)
{
	CALL(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
}

static void acked(int fd, struct nlmsghdr *n)
{
	char ack[1024];
	n->nlmsg_flags |= NLM_F_ACK;
	CALL(send(fd, n, n->nlmsg_len, 0));
	CALL(recv(fd, ack, sizeof ack, 0));
	CHECK(((struct nlmsgerr *)NLMSG_DATA(ack))->error == 0, "refused: %s",
	      strerror(-((struct nlmsgerr *)NLMSG_DATA(ack))->error));
}

static void log_packets(int fd)
{
	char buf[512];
	struct nfulnl_msg_config_cmd bind = { NFULNL_CFG_CMD_BIND };
	struct nfulnl_msg_config_mode mode = { .copy_range = htonl(0xffff), .copy_mode = NFULNL_COPY_PACKET };
	struct nlmsghdr *n = netfilter(buf, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, 0, AF_INET, GROUP);
	put(n, NFULA_CFG_CMD, &bind, sizeof bind);
	acked(fd, n);
	n = netfilter(buf, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, 0, AF_INET, GROUP);
	put(n, NFULA_CFG_MODE, &mode, sizeof mode);
	put_be32(n, NFULA_CFG_QTHRESH, 1);
	acked(fd, n);
}

static void run(const char *command)
{
	int status = system(command);
	CHECK(status == 0, "%s: status %x", command, status);
}

int main(int argc, char **argv)
{
	static const char *const kinds[] = { "route", "conntrack", "nflog" };
	struct chan c;
	struct meter m;
	uint64_t count;
	pid_t sender;
	CHECK(argc == 4, "usage: events WAY route|conntrack|nflog COUNT");
	c = chan_parse(argv[1]);
	while (kind <= NFLOG && strcmp(kinds[kind], argv[2]))
		kind++;
	CHECK(kind <= NFLOG, "no such kind: %s", argv[2]);
	count = number(argv[3]) / AT_ONCE * AT_ONCE;
	unsetenv("LD_PRELOAD");
	CALL(unshare(CLONE_NEWNET));
	run("ip link set lo up");
	if (kind == NFLOG)
		run("iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFLOG --nflog-group 7 --nflog-threshold 1 &&"
		    "iptables-legacy -A OUTPUT -p udp --dport 9999 -j DROP");
	words = shared_words();
	sender = helper();
	if (sender == 0) {
		while (!words[0])
			usleep(100);
		generate(count);
	}
	counter_open();
	chan_socket(&c, kind == ROUTE ? NETLINK_ROUTE : NETLINK_NETFILTER);
	if (kind == NFLOG)
		log_packets(c.fd);
	chan_rings(&c, 0, 0);
	if (kind == ROUTE)
		join_group(c.fd, RTNLGRP_IPV4_ROUTE);
	if (kind == CONNTRACK) {
		join_group(c.fd, NFNLGRP_CONNTRACK_NEW);
		join_group(c.fd, NFNLGRP_CONNTRACK_DESTROY);
	}
	meter_start(&m);
	words[0] = 1;
	while (seen < count) {
		CHAN_EACH(&c, take);
		words[1] = seen;
	}
	report(&m, &c, seen);
	join_helper(sender);
	return sum == 1; /* keeps the sum alive */
}
