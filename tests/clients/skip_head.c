/* A frame left in SKIP where the kernel comes round to it (clients.md 8): it is never written over,
 * and what finds no room is told by ENOBUFS, not lost in silence. Whether the kernel steps over the
 * frame (4.5, answers) or stops at it (3.10, and 4.5 for copies) its client finds out by looking
 * further; released, the ring goes on. */
#include "msg.h"

static struct sock s;
static char buf[1024];

static int pending_error(void)
{
	int e = -1;
	socklen_t len = sizeof e;
	CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &e, &len));
	return e;
}

static void ask(uint32_t seq)
{
	CHECK_CALL(plain_send(s.fd, msg_ack(buf, seq), 16, 0, 0));
}

/* Takes answer `seq` from wherever in the ring it lies; the position follows it. */
static int find(uint32_t seq, int ms)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	long end = now_ms() + ms;
	do {
		unsigned i;
		for (i = 0; i < s.rx.frame_nr; i++) {
			struct nl_mmap_hdr *h = frame_at(&s.rx, (s.rx.pos + i) % s.rx.frame_nr);
			if (status_of(h) != NL_MMAP_STATUS_VALID ||
			    ((struct nlmsghdr *)payload(h))->nlmsg_seq != seq)
				continue;
			check_error(payload(h), h->nm_len, seq, 0);
			s.rx.pos = (s.rx.pos + i) % s.rx.frame_nr;
			set_status(h, NL_MMAP_STATUS_UNUSED);
			advance(&s.rx);
			return 1;
		}
		CHECK_CALL(poll(&p, 1, 20));
	} while (now_ms() < end);
	return 0;
}

int main(void)
{
	struct nl_mmap_hdr *held;
	uint32_t i;
	int arrived = 0, told;

	s = ring_open(NETLINK_ROUTE, GEOM(4096, 2, 2048), NO_RING);
	ask(1);
	held = head(&s.rx);
	CHECK(status_of(held) == NL_MMAP_STATUS_VALID, "no ack in the ring");
	set_status(held, NL_MMAP_STATUS_SKIP);
	advance(&s.rx);
	for (i = 2; i <= 4; i++) {
		ask(i);
		CHECK(find(i, 1000), "answer %u is lost though its frame is free", i);
	}
	/* the head is back at the held frame */
	for (i = 5; i <= 7; i++)
		ask(i);
	CHECK(status_of(held) == NL_MMAP_STATUS_SKIP, "a SKIP frame turned %u", status_of(held));
	check_error(payload(held), held->nm_len, 1, 0);
	told = pending_error();
	CHECK(told == 0 || told == ENOBUFS, "SO_ERROR says %d", told);
	set_status(held, NL_MMAP_STATUS_UNUSED);
	for (i = 5; i <= 7; i++)
		arrived += find(i, told ? 50 : 1000);
	CHECK(arrived == 3 || told == ENOBUFS, "%d of 3 answers arrived and no error told of it", arrived);
	for (i = 100; i < 120; i++) {
		ask(i);
		CHECK(find(i, 3000), "the ring did not go on after the SKIP frame was released");
	}
	ok();
	return 0;
}
