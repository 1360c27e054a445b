/* nfqueue_verdict QUEUE REFUSED-PORT [NODE]: accepts the packets of an NFQUEUE, all but those to one UDP or TCP port.
 *
 *	iptables -A INPUT -p udp -j NFQUEUE --queue-num 5
 *	cc nfqueue_verdict.c $(pkg-config --cflags --libs nlmmap) -o nfqueue_verdict && ./nfqueue_verdict 5 9999
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <nlmmap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct request {
	struct nlmsghdr header;
	struct nfgenmsg queue;
	struct nlattr attribute;
	union {
		struct nfqnl_msg_config_cmd command;
		struct nfqnl_msg_config_params parameters;
		struct nfqnl_msg_verdict_hdr verdict;
	} value;
};

static struct nlmmap_ring *ring;
static unsigned queue, refused;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, nlmmap_ring_error());
	exit(1);
}

static void send_request(struct request *r, int type, int flags, int attribute, size_t len)
{
	r->header = (struct nlmsghdr){ .nlmsg_len = sizeof r->header + sizeof r->queue + NLA_HDRLEN + NLA_ALIGN(len),
				       .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type,
				       .nlmsg_flags = NLM_F_REQUEST | flags };
	r->queue = (struct nfgenmsg){ .res_id = htons(queue) };
	r->attribute = (struct nlattr){ NLA_HDRLEN + len, attribute };
	if (nlmmap_ring_send(ring, r, r->header.nlmsg_len) < 0)
		fail("send");
}

static void configure(struct request *r, int attribute, size_t len)
{
	struct nlmmap_lent answer;
	const struct nlmsgerr *error;
	send_request(r, NFQNL_MSG_CONFIG, NLM_F_ACK, attribute, len);
	if (nlmmap_ring_recv(ring, &answer, -1) < 0)
		fail("recv");
	error = NLMSG_DATA((struct nlmsghdr *)answer.data);
	if (error->error) {
		fprintf(stderr, "queue %u: %s\n", queue, strerror(-error->error));
		exit(1);
	}
	nlmmap_ring_release(&answer);
}

/* The destination port of an IPv4 packet of UDP or TCP, or -1. */
static int port(const unsigned char *packet, size_t len)
{
	size_t header = len ? (packet[0] & 15) * 4 : 0;
	if (len < 20 || len < header + 4 || (packet[9] != IPPROTO_UDP && packet[9] != IPPROTO_TCP))
		return -1;
	return packet[header + 2] << 8 | packet[header + 3];
}

static void judge(const struct nlmmap_lent *lent)
{
	const char *at = (const char *)lent->data + NLMSG_SPACE(sizeof(struct nfgenmsg)), *end = (const char *)lent->data + lent->len;
	struct request verdict = { .value.verdict.verdict = htonl(NF_ACCEPT) };
	const struct nlmsghdr *header = lent->data;
	const struct nlattr *a;
	if (lent->len < sizeof *header || header->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return;
	for (; end - at >= NLA_HDRLEN; at += NLA_ALIGN(a->nla_len)) {
		a = (const void *)at;
		if (a->nla_len < NLA_HDRLEN || a->nla_len > end - at)
			break;
		if (a->nla_type == NFQA_PACKET_HDR)
			verdict.value.verdict.id = ((const struct nfqnl_msg_packet_hdr *)(at + NLA_HDRLEN))->packet_id;
		else if (a->nla_type == NFQA_PAYLOAD && port((const void *)(at + NLA_HDRLEN), a->nla_len - NLA_HDRLEN) == (int)refused)
			verdict.value.verdict.verdict = htonl(NF_DROP);
	}
	send_request(&verdict, NFQNL_MSG_VERDICT, 0, NFQA_VERDICT_HDR, sizeof verdict.value.verdict);
}

int main(int argc, char **argv)
{
	struct nlmmap_options options = { .size = sizeof options, .family = NETLINK_NETFILTER };
	struct request bind = { .value.command = { .command = NFQNL_CFG_CMD_BIND } };
	struct request copy = { .value.parameters = { htonl(0xffff), NFQNL_COPY_PACKET } };
	struct nlmmap_lent lent;
	if (argc < 3 || sscanf(argv[1], "%u", &queue) != 1 || sscanf(argv[2], "%u", &refused) != 1)
		return fprintf(stderr, "usage: %s QUEUE REFUSED-PORT [NODE]\n", argv[0]), 2;
	options.node = argv[3];
	if (!(ring = nlmmap_ring_new(&options)))
		fail("nlmmap_ring_new");
	configure(&bind, NFQA_CFG_CMD, sizeof bind.value.command);
	configure(&copy, NFQA_CFG_PARAMS, sizeof copy.value.parameters);
	printf("judging queue %u\n", queue);
	fflush(stdout);
	for (;;) {
		int got = nlmmap_ring_recv(ring, &lent, -1);
		if (got < 0 && errno != ENOBUFS && errno != EINTR)
			fail("recv");
		if (got == 1 && lent.flags & NLMMAP_FROM_KERNEL)
			judge(&lent);
		if (got == 1)
			nlmmap_ring_release(&lent);
	}
}
