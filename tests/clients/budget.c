/* Fixed dialogues, each repeated argv[2] times in one process, for whoever counts instructions. Nothing in them depends on
 * time: every message is sent before it is asked for.
 *
 * request    a request from the TX ring, its acknowledgement in the head frame when the kick returns
 * verdicts   64 packets of NFQUEUE 5 in the queue, 64 verdicts by one kick
 * each       the same 64, each with a kick of its own before its frame is released
 * events     100 route events in the queue
 * wakeup     one message of another socket of this process, found by poll
 * many       the same with 63 more ring sockets in the poll that have nothing */
#include "nf.h"
#include <linux/netfilter/nfnetlink_queue.h>

enum { QUEUE = 5, PORT = 9999, BURST = 64, EVENTS = 100, MANY = 64 };
static char buf[8192];
static uint32_t seq = 1;

static void wait_for(struct pollfd *p, int n)
{
	CHECK(poll(p, n, 2000) > 0, "nothing within 2 s");
}

static void request(struct sock *s)
{
	tx_put(s, msg_ack(buf, ++seq), 16);
	CHECK(tx_kick(s) == 16, "kick: %s", strerror(errno));
	check_error(buf, rx_next(s, buf, sizeof buf, NULL), seq, 0);
}

static void config(struct sock *s)
{
	struct nfqnl_msg_config_cmd c = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	struct nfqnl_msg_config_params p = { htonl(0xffff), NFQNL_COPY_PACKET };
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_CFG_CMD, &c, sizeof c);
	nf_request(s, n);
	n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_CFG_PARAMS, &p, sizeof p);
	nf_request(s, n);
}

static void judge(struct sock *s, int udp, int by_one)
{
	struct pollfd p = { s->fd, POLLIN, 0 };
	for (int i = 0; i < BURST; i++)
		udp_send(udp, PORT, "0123456789abcdef", 16);
	for (int i = 0; i < BURST; i++) {
		struct nlmsghdr *n = (struct nlmsghdr *)payload(head(&s->rx));
		struct nfqnl_msg_verdict_hdr v = { htonl(NF_DROP), 0 };
		const struct nlattr *a;
		if (!ready(&s->rx))
			wait_for(&p, 1);
		a = nf_attr(n, NFQA_PACKET_HDR);
		CHECK(status_of(head(&s->rx)) == NL_MMAP_STATUS_VALID && a, "packet %d is not there", i);
		v.id = ((const struct nfqnl_msg_packet_hdr *)attr_data(a))->packet_id;
		n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_VERDICT, 0, ++seq, AF_UNSPEC, QUEUE);
		attr(n, NFQA_VERDICT_HDR, &v, sizeof v);
		tx_put(s, n, n->nlmsg_len);
		if (by_one)
			CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
		set_status(head(&s->rx), NL_MMAP_STATUS_UNUSED);
		advance(&s->rx);
	}
	if (!by_one)
		CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
}

static void route(int fd, int type, int flags)
{
	struct nlmsghdr *n = msg(buf, type, flags, ++seq, sizeof(struct rtmsg));
	*(struct rtmsg *)NLMSG_DATA(n) = (struct rtmsg){ .rtm_family = AF_INET, .rtm_dst_len = 32,
		.rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK,
		.rtm_type = RTN_UNICAST };
	attr_u32(n, RTA_DST, htonl(0x0a000001));
	attr_u32(n, RTA_OIF, if_nametoindex("lo"));
	CHECK(plain_send(fd, n, n->nlmsg_len, 0, 0) > 0, "route: %s", strerror(errno));
}

static void events(struct sock *s, int other)
{
	struct pollfd p = { s->fd, POLLIN, 0 };
	for (int i = 0; i < EVENTS; i++)
		route(other, i % 2 ? RTM_DELROUTE : RTM_NEWROUTE, NLM_F_CREATE);
	for (int i = 0; i < EVENTS; i++) {
		if (!ready(&s->rx))
			wait_for(&p, 1);
		CHECK(rx_next(s, buf, sizeof buf, NULL) > 0, "event %d is not there", i);
	}
}

static void wakeup(struct sock *s, struct pollfd *p, int n, int other)
{
	msg_ack(buf, ++seq);
	CHECK(plain_send(other, buf, 16, s->port, 0) == 16, "send: %s", strerror(errno));
	wait_for(p, n);
	CHECK(rx_next(s, buf, sizeof buf, NULL) == 16, "the message is not there");
}

int main(int argc, char **argv)
{
	struct nl_mmap_req rx = GEOM(16384, 16, 2048), tx = GEOM(16384, 1, 256);
	static struct pollfd p[MANY];
	int family = NETLINK_USERSOCK, other = -1, n = 1, times;
	struct sock s;
	CHECK(argc == 3, "usage: budget DIALOGUE TIMES");
	const char *what = argv[1];
	times = atoi(argv[2]);
	if (!strcmp(what, "request") || !strcmp(what, "events"))
		family = NETLINK_ROUTE;
	else if (!strcmp(what, "verdicts") || !strcmp(what, "each"))
		family = NETLINK_NETFILTER;
	s = ring_open(family, rx, tx);
	p[0] = (struct pollfd){ s.fd, POLLIN, 0 };
	if (family == NETLINK_NETFILTER) {
		config(&s);
		other = udp_open(0);
	} else {
		other = plain_open(family);
	}
	if (!strcmp(what, "many"))
		for (; n < MANY; n++)
			p[n] = (struct pollfd){ ring_open(family, GEOM(16384, 1, 2048), NO_RING).fd, POLLIN, 0 };
	if (!strcmp(what, "events")) {
		int group = RTNLGRP_IPV4_ROUTE;
		CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	}
	for (int i = 0; i < times; i++) {
		if (!strcmp(what, "request"))
			request(&s);
		else if (family == NETLINK_NETFILTER)
			judge(&s, other, !strcmp(what, "each"));
		else if (family == NETLINK_ROUTE)
			events(&s, other);
		else
			wakeup(&s, p, n, other);
	}
	ok();
	return 0;
}
