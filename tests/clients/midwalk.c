/* Kicks in the middle of a walk: a verdict for a packet that does not exist is answered by an error, which must be in the ring
 * when the client has read what it was shown, by whatever road it gets there. argv[1]:
 *
 * kick    by the verdict of the last packet, before its frame is released
 * poll    by poll, the last packet having no verdict
 * recv    by recv, which finds no COPY message
 * spin    by reading nm_status alone
 * ack     in the middle: by a request that wants an answer at once */
#include "nf.h"
#include <linux/netfilter/nfnetlink_queue.h>

enum { QUEUE = 5, PORT = 9999, BURST = 20, BOGUS = 7 };
static struct sock s;
static char buf[8192];
static uint32_t seq = 1;

static void config(void)
{
	struct nfqnl_msg_config_cmd c = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	struct nfqnl_msg_config_params p = { htonl(0xffff), NFQNL_COPY_PACKET };
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_CFG_CMD, &c, sizeof c);
	nf_request(&s, n);
	n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_CFG_PARAMS, &p, sizeof p);
	nf_request(&s, n);
}

/* Returns the verdict's sequence number. `id` in network byte order. */
static uint32_t judge(uint32_t id, int flags)
{
	struct nfqnl_msg_verdict_hdr v = { htonl(NF_DROP), id };
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_VERDICT, flags, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_VERDICT_HDR, &v, sizeof v);
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) > 0, "kick: %s", strerror(errno));
	return seq;
}

static void walk(const char *road, int udp)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	uint32_t bogus = 0, asked = 0;
	long end;
	for (int i = 0; i < BURST; i++)
		udp_send(udp, PORT, "0123456789abcdef", 16);
	for (int i = 0; i < BURST; i++) {
		const struct nlattr *a;
		int last = i == BURST - 1;
		if (!ready(&s.rx))
			CHECK(poll(&p, 1, 2000) == 1, "packet %d does not come", i);
		a = nf_attr((struct nlmsghdr *)payload(head(&s.rx)), NFQA_PACKET_HDR);
		CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_VALID && a, "frame of packet %d", i);
		if (i == BOGUS)
			bogus = judge(htonl(0x7fffffff), 0);
		if (i == BOGUS + 1 && !strcmp(road, "ack"))
			asked = judge(((const struct nfqnl_msg_packet_hdr *)attr_data(a))->packet_id, NLM_F_ACK);
		else if (!last || !strcmp(road, "kick"))
			judge(((const struct nfqnl_msg_packet_hdr *)attr_data(a))->packet_id, 0);
		if (asked && i == BOGUS + 1) {
			/* Both answers are behind the packets, somewhere. */
			unsigned at = s.rx.pos, found = 0;
			for (unsigned n = 0; n < s.rx.frame_nr; n++, at = (at + 1) % s.rx.frame_nr) {
				struct nl_mmap_hdr *h = frame_at(&s.rx, at);
				struct nlmsghdr *m = (struct nlmsghdr *)payload(h);
				found += status_of(h) == NL_MMAP_STATUS_VALID && m->nlmsg_type == NLMSG_ERROR &&
					 (m->nlmsg_seq == bogus || m->nlmsg_seq == asked);
			}
			CHECK(found == 2, "%u of two answers are in the ring when the kick returns", found);
		}
		set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
	}
	if (!strcmp(road, "poll"))
		CHECK(poll(&p, 1, 2000) == 1, "poll does not see the error");
	if (!strcmp(road, "recv"))
		CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) < 0 && errno == EAGAIN, "recv finds something");
	if (!strcmp(road, "spin"))
		for (end = now_ms() + 5000; !ready(&s.rx);)
			CHECK(now_ms() < end, "the error does not come to who spins");
	CHECK(ready(&s.rx), "at the end of the walk the error is not there");
	check_error(buf, rx_next(&s, buf, sizeof buf, NULL), bogus, -ENOENT);
	if (asked)
		check_error(buf, rx_next(&s, buf, sizeof buf, NULL), asked, 0);
}

int main(int argc, char **argv)
{
	int udp;
	CHECK(argc == 2, "usage: midwalk kick|poll|recv|spin|ack");
	s = ring_open(NETLINK_NETFILTER, GEOM(16384, 16, 2048), GEOM(16384, 1, 256));
	config();
	udp = udp_open(0);
	for (int i = 0; i < 20; i++)
		walk(argv[1], udp);
	ok();
	return 0;
}
