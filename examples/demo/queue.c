/*
 * queue: judge the packets of an NFQUEUE through memory-mapped netlink.
 *
 * Written as a client of 2013 was: packets are read where they lie in RX frames, each verdict is written to a TX
 * frame of its own, and one kick sends all verdicts that a wake-up gave. It knows nothing of nlmmap.
 *
 *	cc -O2 -Wall -o queue queue.c
 *	./queue NUMBER PACKETS
 *
 * Prints "ready" once the queue is bound, then judges PACKETS packets: a UDP payload that is an even decimal number
 * is accepted, any other is dropped. Exit status: 0 done, 3 the kernel has no netlink rings, 1 anything else.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

#define FRAME_SIZE	2048
#define FRAME_NR	512
#define BLOCK_SIZE	16384
#define RING_SIZE	(FRAME_SIZE * FRAME_NR)

static int fd, queue_num;
static char *rx_ring, *tx_ring;
static unsigned int rx_frame, tx_frame, unsent;
static unsigned int nframes, ncopies, npolls, nkicks, naccepted, ndropped, wanted;
static int acked;

static void die(const char *what)
{
	fprintf(stderr, "queue: %s: %s\n", what, strerror(errno));
	exit(errno == ENOPROTOOPT ? 3 : 1);
}

static void kick(void)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	if (!unsent)
		return;
	if (sendto(fd, NULL, 0, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		die("sendto");
	nkicks++;
	unsent = 0;
}

static volatile struct nl_mmap_hdr *tx_hdr(void)
{
	return (void *)(tx_ring + tx_frame * FRAME_SIZE);
}

/* The head of an nfqueue message in the next free TX frame. */
static struct nlmsghdr *begin(int type, int flags)
{
	struct nlmsghdr *nlh;
	struct nfgenmsg *nfg;

	if (tx_hdr()->nm_status != NL_MMAP_STATUS_UNUSED)
		kick();
	if (tx_hdr()->nm_status != NL_MMAP_STATUS_UNUSED) {
		errno = EBUSY;
		die("no free frame in the TX ring");
	}
	nlh = (void *)((char *)tx_hdr() + NL_MMAP_HDRLEN);
	memset(nlh, 0, NLMSG_SPACE(sizeof(*nfg)));
	nlh->nlmsg_len = NLMSG_LENGTH(sizeof(*nfg));
	nlh->nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nfg = NLMSG_DATA(nlh);
	nfg->res_id = htons(queue_num);
	return nlh;
}

static void attribute(struct nlmsghdr *nlh, int type, const void *data, int len)
{
	struct nlattr *a = (void *)((char *)nlh + NLMSG_ALIGN(nlh->nlmsg_len));

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	memcpy((char *)a + NLA_HDRLEN, data, len);
	nlh->nlmsg_len = NLMSG_ALIGN(nlh->nlmsg_len) + NLA_ALIGN(a->nla_len);
}

static void end(struct nlmsghdr *nlh)
{
	tx_hdr()->nm_len = nlh->nlmsg_len;
	__sync_synchronize();
	tx_hdr()->nm_status = NL_MMAP_STATUS_VALID;
	tx_frame = (tx_frame + 1) % FRAME_NR;
	unsent++;
}

static void judge(struct nlmsghdr *nlh)
{
	struct nlattr *a = (void *)((char *)NLMSG_DATA(nlh) + NLMSG_ALIGN(sizeof(struct nfgenmsg)));
	int rest = nlh->nlmsg_len - NLMSG_SPACE(sizeof(struct nfgenmsg));
	struct nfqnl_msg_verdict_hdr verdict = { .verdict = htonl(NF_DROP) };
	struct nfqnl_msg_packet_hdr packet;
	unsigned char *ip = NULL;
	char text[16] = "";
	int len = 0, head, n;

	while (rest >= NLA_HDRLEN && a->nla_len >= NLA_HDRLEN && a->nla_len <= rest) {
		if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) {
			memcpy(&packet, (char *)a + NLA_HDRLEN, sizeof(packet));
			verdict.id = packet.packet_id;
		} else if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PAYLOAD) {
			ip = (unsigned char *)a + NLA_HDRLEN;
			len = a->nla_len - NLA_HDRLEN;
		}
		rest -= NLA_ALIGN(a->nla_len);
		a = (void *)((char *)a + NLA_ALIGN(a->nla_len));
	}
	head = ip && len > 0 ? (ip[0] & 15) * 4 + 8 : 0; /* IP header and UDP header */
	if (head && len > head) {
		n = len - head < (int)sizeof(text) - 1 ? len - head : (int)sizeof(text) - 1;
		memcpy(text, ip + head, n);
		if (strtoul(text, NULL, 10) % 2 == 0)
			verdict.verdict = htonl(NF_ACCEPT);
	}
	if (verdict.verdict == htonl(NF_ACCEPT))
		naccepted++;
	else
		ndropped++;
	nlh = begin(NFQNL_MSG_VERDICT, 0);
	attribute(nlh, NFQA_VERDICT_HDR, &verdict, sizeof(verdict));
	end(nlh);
}

static void process(struct nlmsghdr *nlh, int len)
{
	for (; NLMSG_OK(nlh, len); nlh = NLMSG_NEXT(nlh, len)) {
		if (nlh->nlmsg_type == NLMSG_ERROR) {
			errno = -((struct nlmsgerr *)NLMSG_DATA(nlh))->error;
			if (errno)
				die("the kernel answers");
			acked++;
		} else if (nlh->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) {
			judge(nlh);
		}
	}
}

/* Waits, takes every frame that is ready, and sends the verdicts they gave. */
static void receive(void)
{
	static char buf[65536 + 4096] __attribute__((aligned(8)));
	struct pollfd pfd = { .fd = fd, .events = POLLIN | POLLERR };
	volatile struct nl_mmap_hdr *hdr;
	int n;

	n = poll(&pfd, 1, 5000);
	npolls++;
	if (n < 0)
		die("poll");
	if (n == 0 || pfd.revents & POLLERR) {
		errno = n ? ENOBUFS : ETIMEDOUT;
		die("waiting for packets");
	}
	for (;;) {
		hdr = (void *)(rx_ring + rx_frame * FRAME_SIZE);
		if (hdr->nm_status == NL_MMAP_STATUS_VALID) {
			__sync_synchronize();
			nframes++;
			if (hdr->nm_len)
				process((void *)((char *)hdr + NL_MMAP_HDRLEN), hdr->nm_len);
		} else if (hdr->nm_status == NL_MMAP_STATUS_COPY) {
			ncopies++;
			n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
			if (n <= 0)
				die("recv of a copied message");
			process((void *)buf, n);
		} else {
			break;
		}
		__sync_synchronize();
		hdr->nm_status = NL_MMAP_STATUS_UNUSED;
		rx_frame = (rx_frame + 1) % FRAME_NR;
	}
	kick();
}

static void setup(void)
{
	struct nl_mmap_req req = {
		.nm_block_size	= BLOCK_SIZE,
		.nm_block_nr	= RING_SIZE / BLOCK_SIZE,
		.nm_frame_size	= FRAME_SIZE,
		.nm_frame_nr	= FRAME_NR,
	};
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK };
	struct nfqnl_msg_config_cmd bind_queue = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	struct nfqnl_msg_config_params copy = { .copy_range = htonl(0xffff), .copy_mode = NFQNL_COPY_PACKET };
	struct nlmsghdr *nlh;

	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof(req)) < 0)
		die("setsockopt(NETLINK_RX_RING)");
	if (setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &req, sizeof(req)) < 0)
		die("setsockopt(NETLINK_TX_RING)");
	rx_ring = mmap(NULL, 2 * RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rx_ring == MAP_FAILED)
		die("mmap");
	tx_ring = rx_ring + RING_SIZE;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("bind");
	nlh = begin(NFQNL_MSG_CONFIG, NLM_F_ACK);
	attribute(nlh, NFQA_CFG_CMD, &bind_queue, sizeof(bind_queue));
	end(nlh);
	nlh = begin(NFQNL_MSG_CONFIG, NLM_F_ACK);
	attribute(nlh, NFQA_CFG_PARAMS, &copy, sizeof(copy));
	end(nlh);
	kick();
	while (acked < 2)
		receive();
	printf("ready\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: queue NUMBER PACKETS\n");
		return 1;
	}
	alarm(60); /* nothing here takes a second */
	queue_num = atoi(argv[1]);
	wanted = atoi(argv[2]);
	setup();
	while (naccepted + ndropped < wanted)
		receive();
	printf("judged %u packets: %u accepted, %u dropped; %u frames and %u copies, %u kicks, %u polls\n",
	       naccepted + ndropped, naccepted, ndropped, nframes, ncopies, nkicks, npolls);
	munmap(rx_ring, 2 * RING_SIZE);
	close(fd);
	return 0;
}
