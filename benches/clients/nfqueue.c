/* nfqueue.c WAY SIZE COUNT [burst]: COUNT UDP packets of SIZE bytes on the loopback of a network namespace of its own, each queued
 * to this program and accepted by it.
 *
 * recv, poll, drain   one sendto a verdict
 * mmsg                recvmmsg, and the verdicts of a batch joined in one datagram: the best by hand
 * ring                one TX frame a verdict, one kick when the RX ring is empty or the TX ring is full
 * ring4:SIZE:NR       the same, with a kick every 4 verdicts
 * ring1:SIZE:NR       the same, with a kick for every verdict, before its RX frame is released
 *
 * burst: the packets come 4 000 at a time, as fast as they can be sent, and the queue holds 1 024 of them. What is lost is
 * told; otherwise the sender waits for the verdicts, and nothing may be lost.
 *
 * Accepted packets are dropped at INPUT: what follows a verdict is no part of the comparison. */
#include "way.h"
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <net/if.h>

enum { QUEUE = 5, PORT = 9999, WINDOW = 1024, TX_SIZE = 256, TX_NR = 64, BURST = 4000, SHORT = 1024 };

struct verdict {
	struct nlmsghdr n;
	struct nfgenmsg g;
	struct nlattr a;
	struct nfqnl_msg_verdict_hdr v;
};
_Static_assert(sizeof(struct verdict) == 32, "no padding");

static volatile uint64_t *words; /* 0: go, 1: packets judged, 2: packets sent, 3: no more bursts */
static uint64_t judged;
static int burst;
static uint32_t last;
static struct verdict joined[VLEN];
static unsigned waiting, every = TX_NR;
static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

static inline struct verdict accept_of(uint32_t id)
{
	return (struct verdict){ { sizeof(struct verdict), NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT, NLM_F_REQUEST, 0, 0 },
				 { AF_UNSPEC, NFNETLINK_V0, htons(QUEUE) },
				 { sizeof(struct nlattr) + sizeof(struct nfqnl_msg_verdict_hdr), NFQA_VERDICT_HDR },
				 { htonl(NF_ACCEPT), htonl(id) } };
}

static inline void flush(struct chan *c)
{
	ssize_t sent, want = waiting * sizeof(struct verdict);
	if (!waiting)
		return;
	if (c->way == RING)
		sent = sendto(c->fd, NULL, 0, 0, (const struct sockaddr *)&kernel, sizeof kernel);
	else
		sent = sendto(c->fd, joined, want, 0, (const struct sockaddr *)&kernel, sizeof kernel);
	CHECK(sent == want, "%u verdicts: %zd, %s", waiting, sent, strerror(errno));
	waiting = 0;
	words[1] = judged;
}

static inline void take(struct chan *c, const char *m, size_t len)
{
	const struct nlmsghdr *n = (const void *)m;
	const struct nlattr *a = (const void *)(m + NLMSG_SPACE(sizeof(struct nfgenmsg)));
	const struct nfqnl_msg_packet_hdr *h = (const void *)(a + 1);
	uint32_t id;
	CHECK(len >= n->nlmsg_len && n->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET) &&
	      a->nla_type == NFQA_PACKET_HDR, "message type %x, attribute %u", n->nlmsg_type, a->nla_type);
	id = ntohl(h->packet_id);
	CHECK(burst ? id > last : id == last + 1, "packet %u after %u", id, last);
	last = id;
	judged++;
	if (c->way == RING) {
		struct nl_mmap_hdr *t = frame(&c->tx);
		CHECK(status(t) == NL_MMAP_STATUS_UNUSED, "the TX frame is not free");
		*(struct verdict *)((char *)t + NL_MMAP_HDRLEN) = accept_of(id);
		t->nm_len = sizeof(struct verdict);
		set_status(t, NL_MMAP_STATUS_VALID);
		advance(&c->tx);
		if (++waiting == every)
			flush(c);
		return;
	}
	joined[waiting++] = accept_of(id);
	if (c->way != MMSG || waiting == VLEN)
		flush(c);
}

static void config(struct chan *c, int type, const void *data, size_t len, int type2, const void *data2, size_t len2)
{
	char buf[256] = { 0 }, ack[1024];
	struct nlmsghdr *n = (void *)buf;
	struct nlattr *a = (void *)(buf + NLMSG_SPACE(sizeof(struct nfgenmsg)));
	*(struct nfgenmsg *)NLMSG_DATA(n) = (struct nfgenmsg){ AF_UNSPEC, NFNETLINK_V0, htons(QUEUE) };
	*a = (struct nlattr){ NLA_HDRLEN + len, type };
	memcpy(a + 1, data, len);
	*n = (struct nlmsghdr){ (char *)a - buf + NLA_ALIGN(a->nla_len), NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG,
				NLM_F_REQUEST | NLM_F_ACK, 1, 0 };
	if (len2) {
		a = (void *)(buf + n->nlmsg_len);
		*a = (struct nlattr){ NLA_HDRLEN + len2, type2 };
		memcpy(a + 1, data2, len2);
		n->nlmsg_len += NLA_ALIGN(a->nla_len);
	}
	CALL(send(c->fd, n, n->nlmsg_len, 0));
	CALL(recv(c->fd, ack, sizeof ack, 0));
	CHECK(((struct nlmsgerr *)NLMSG_DATA(ack))->error == 0, "the queue refuses its configuration: %s",
	      strerror(-((struct nlmsgerr *)NLMSG_DATA(ack))->error));
}

static void run(const char *command)
{
	int status = system(command);
	CHECK(status == 0, "%s: status %x", command, status);
}

/* Numbered packets, at most WINDOW not yet judged. */
static void generate(size_t size, uint64_t count)
{
	static char data[65536];
	static struct iovec iov;
	static struct mmsghdr msgs[32];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 64 << 20;
	CALL(fd);
	CALL(setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room));
	CALL(connect(fd, (struct sockaddr *)&to, sizeof to));
	iov = (struct iovec){ data, size };
	for (int i = 0; i < 32; i++)
		msgs[i].msg_hdr = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
	/* Each burst begins when the client has done what it could of the last one. */
	for (uint64_t sent = 0, seen; burst && sent < count;) {
		for (int i = 0; i < BURST; i++)
			send(fd, data, size, 0); /* refused by a full queue */
		words[2] = sent += BURST;
		do {
			seen = words[1];
			usleep(20000);
		} while (words[1] != seen);
	}
	if (burst) {
		words[3] = 1;
		send(fd, data, size, 0); /* wakes it for the last time */
		_exit(0);
	}
	for (uint64_t sent = 0; sent < count;) {
		uint64_t n = count - sent < 32 ? count - sent : 32;
		if (sent + n - words[1] > WINDOW) {
			usleep(20);
			continue;
		}
		CHECK(sendmmsg(fd, msgs, n, 0) == (int)n, "sendmmsg: %s", strerror(errno));
		sent += n;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct nfqnl_msg_config_cmd bind = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	struct nfqnl_msg_config_params params = { htonl(0xffff), NFQNL_COPY_PACKET };
	uint32_t most;
	char way[64];
	struct chan c;
	struct meter m;
	uint64_t count;
	size_t size;
	pid_t sender;
	CHECK(argc == 4 || argc == 5, "usage: nfqueue WAY SIZE COUNT [burst]");
	burst = argc == 5;
	most = htonl(burst ? SHORT : 100000);
	snprintf(way, sizeof way, "%s", argv[1]);
	if (!strncmp(way, "ring4", 5) || !strncmp(way, "ring1", 5)) {
		every = way[4] - '0';
		memmove(way + 4, way + 5, strlen(way + 5) + 1);
	}
	c = chan_parse(way);
	size = number(argv[2]);
	count = number(argv[3]);
	unsetenv("LD_PRELOAD");
	CALL(unshare(CLONE_NEWNET));
	run("ip link set lo up");
	run("iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5");
	run("iptables-legacy -A INPUT -p udp --dport 9999 -j DROP");
	words = shared_words();
	sender = helper();
	if (sender == 0) {
		while (!words[0])
			usleep(100);
		generate(size, count);
	}
	counter_open();
	chan_socket(&c, NETLINK_NETFILTER);
	config(&c, NFQA_CFG_CMD, &bind, sizeof bind, 0, NULL, 0);
	config(&c, NFQA_CFG_PARAMS, &params, sizeof params, NFQA_CFG_QUEUE_MAXLEN, &most, sizeof most);
	chan_rings(&c, TX_SIZE, TX_NR);
	meter_start(&m);
	words[0] = 1;
	while (burst ? !words[3] : judged < count) {
		CHAN_EACH(&c, take);
		flush(&c);
	}
	if (burst)
		printf("lost=%lu ", words[2] > judged ? words[2] - judged : 0);
	report(&m, &c, judged);
	join_helper(sender);
	return 0;
}
