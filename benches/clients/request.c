/* request.c WAY COUNT WINDOW: COUNT requests with acknowledgement to NETLINK_ROUTE, which the kernel answers while it is
 * being sent to.
 *
 * WINDOW 1: one after the other, each timed: the latency of a round trip.
 * WINDOW n: n at a time. A ring client fills n TX frames and kicks once; recv, poll and drain send each by sendto and
 * receive its answer, as programs do; mmsg uses sendmmsg and recvmmsg; joined packs n requests into one datagram. */
#include "way.h"

enum { TX_SIZE = 256, TX_NR = 64, MOST = 64 };
static uint32_t acked;

static inline void take(struct chan *c, const char *m, size_t len)
{
	const struct nlmsghdr *n = (const void *)m;
	const struct nlmsgerr *e = NLMSG_DATA(n);
	(void)c;
	CHECK(len >= NLMSG_LENGTH(sizeof *e) && n->nlmsg_type == NLMSG_ERROR && e->error == 0 && n->nlmsg_seq == acked,
	      "message %u of type %u instead of the acknowledgement of %u", n->nlmsg_seq, n->nlmsg_type, acked);
	acked++;
}

static inline struct nlmsghdr request(uint32_t seq)
{
	return (struct nlmsghdr){ sizeof(struct nlmsghdr), NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, seq, 0 };
}

static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

static inline void kick(struct chan *c, uint32_t seq, int n)
{
	for (int i = 0; i < n; i++) {
		struct nl_mmap_hdr *h = frame(&c->tx);
		CHECK(status(h) == NL_MMAP_STATUS_UNUSED, "the TX frame is not free");
		*(struct nlmsghdr *)((char *)h + NL_MMAP_HDRLEN) = request(seq + i);
		h->nm_len = sizeof(struct nlmsghdr);
		set_status(h, NL_MMAP_STATUS_VALID);
		advance(&c->tx);
	}
	CHECK(sendto(c->fd, NULL, 0, 0, (const struct sockaddr *)&kernel, sizeof kernel) == n * (int)sizeof(struct nlmsghdr),
	      "kick: %s", strerror(errno));
	/* The answers are there when the kick returns: only what is not yet is waited for. */
	RING_EACH(c, take);
}

static inline void send_each(struct chan *c, uint32_t seq, int n, int joined)
{
	static struct nlmsghdr buf[MOST];
	static struct iovec iov[MOST];
	static struct mmsghdr msgs[MOST];
	for (int i = 0; i < n; i++) {
		buf[i] = request(seq + i);
		iov[i] = (struct iovec){ &buf[i], sizeof buf[i] };
		msgs[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
	if (joined)
		CHECK(send(c->fd, buf, n * sizeof buf[0], 0) == (ssize_t)(n * sizeof buf[0]), "send: %s", strerror(errno));
	else if (c->way == MMSG)
		CHECK(sendmmsg(c->fd, msgs, n, 0) == n, "sendmmsg: %s", strerror(errno));
	else
		for (int i = 0; i < n; i++) {
			CHECK(sendto(c->fd, &buf[i], sizeof buf[i], 0, (const struct sockaddr *)&kernel, sizeof kernel) ==
			      sizeof buf[i], "sendto: %s", strerror(errno));
			while (acked <= seq + i)
				CHAN_EACH(c, take);
		}
}

int main(int argc, char **argv)
{
	struct chan c;
	struct meter m;
	uint32_t count, *ns;
	int window, joined;
	CHECK(argc == 4, "usage: request WAY COUNT WINDOW");
	joined = !strcmp(argv[1], "joined");
	c = chan_parse(joined ? "mmsg" : argv[1]);
	count = number(argv[2]);
	window = number(argv[3]);
	CHECK(window >= 1 && window <= MOST, "a window from 1 to %d", MOST);
	ns = calloc(count, sizeof *ns);
	CHECK(ns, "out of memory");
	counter_open();
	chan_socket(&c, NETLINK_ROUTE);
	chan_rings(&c, TX_SIZE, TX_NR);
	meter_start(&m);
	while (acked < count) {
		uint64_t before = window == 1 ? now() : 0;
		uint32_t first = acked;
		int n = count - acked < (uint32_t)window ? (int)(count - acked) : window;
		if (c.way == RING)
			kick(&c, first, n);
		else
			send_each(&c, first, n, joined);
		while (acked < first + n)
			CHAN_EACH(&c, take);
		if (window == 1)
			ns[first] = now() - before;
	}
	if (window == 1 && counter < 0)
		latencies(ns, count, clock_of(CLOCK_PROCESS_CPUTIME_ID) - m.cpu);
	else
		report(&m, &c, count);
	return 0;
}
