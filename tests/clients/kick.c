/* What a kick does to the TX ring (clients.md 6, 11; abi.md 6): several frames a call, sums,
 * nothing VALID, errors that consume their frame, oversized ones that stay, frames not scrubbed. */
#include "msg.h"

static struct sock s;
static char buf[4096];

static void take_ack(uint32_t seq, int error)
{
	ssize_t n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, seq, error);
}

static void many_in_one_call(void)
{
	uint32_t i, round;
	for (round = 0; round < 50; round++) {
		for (i = 0; i < 4; i++)
			tx_put(&s, msg_ack(buf, round * 4 + i), 16);
		CHECK(tx_kick(&s) == 64, "a kick of four frames of 16 bytes did not return 64");
		for (i = 0; i < 4; i++)
			CHECK(status_of(frame_at(&s.tx, (round * 4 + i) % s.tx.frame_nr)) == NL_MMAP_STATUS_UNUSED,
			      "frame %u is not UNUSED after the kick", i);
		for (i = 0; i < 4; i++)
			take_ack(round * 4 + i, 0);
	}
}

static void nothing_valid(void)
{
	CHECK(tx_kick(&s) == 0, "a kick with nothing VALID must return 0");
	CHECK(send(s.fd, NULL, 0, 0) == 0, "send(0, 0) with nothing VALID must return 0");
}

/* The kernel stops at the first frame that is not VALID; the head does not run ahead. */
static void gap(void)
{
	struct nl_mmap_hdr *second = frame_at(&s.tx, (s.tx.pos + 1) % s.tx.frame_nr);
	tx_put(&s, msg_ack(buf, 1), 16);
	tx_put(&s, msg_ack(buf, 2), 16);
	tx_put(&s, msg_ack(buf, 3), 16);
	set_status(second, NL_MMAP_STATUS_RESERVED);
	CHECK(tx_kick(&s) == 16, "a kick must stop at the frame that is not VALID");
	CHECK(tx_kick(&s) == 0, "the head ran over a frame that is not VALID");
	set_status(second, NL_MMAP_STATUS_VALID);
	CHECK(tx_kick(&s) == 32, "the frames behind the gap were not sent");
	take_ack(1, 0);
	take_ack(2, 0);
	take_ack(3, 0);
}

static void oversized_stays(void)
{
	struct nl_mmap_hdr *h = head(&s.tx);
	tx_put(&s, msg_ack(buf, 4), 16);
	h->nm_len = s.tx.frame_size - NL_MMAP_HDRLEN + 1;
	CHECK(tx_kick(&s) == -1 && errno == EINVAL, "an oversized frame must be refused with EINVAL");
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "an oversized frame must stay VALID");
	h->nm_len = 16;
	CHECK(tx_kick(&s) == 16, "the corrected frame was not sent");
	take_ack(4, 0);
}

/* Nobody listens at that port: the failed frame is consumed, the rest waits. */
static void refused_is_consumed(void)
{
	unsigned first = s.tx.pos, i;
	for (i = 0; i < 3; i++)
		tx_put(&s, msg_ack(buf, 5 + i), 16);
	CHECK(tx_kick_to(&s, 0x7ffffff0, 0) == -1 && errno == ECONNREFUSED, "expected ECONNREFUSED: %s",
	      strerror(errno));
	CHECK(status_of(frame_at(&s.tx, first)) == NL_MMAP_STATUS_UNUSED, "the refused frame was not consumed");
	CHECK(status_of(frame_at(&s.tx, (first + 1) % s.tx.frame_nr)) == NL_MMAP_STATUS_VALID,
	      "a frame behind the refused one was consumed");
	CHECK(tx_kick(&s) == 32, "the two frames behind the refused one were not sent");
	take_ack(6, 0);
	take_ack(7, 0);
}

static void not_scrubbed(void)
{
	struct nl_mmap_hdr *h = head(&s.tx);
	memset(payload(h), 0x5a, 1000);
	tx_put(&s, msg_ack(buf, 8), 16);
	CHECK(tx_kick(&s) == 16, "kick");
	take_ack(8, 0);
	CHECK(((struct nlmsghdr *)payload(h))->nlmsg_seq == 8 && h->nm_len == 16, "a sent frame was changed");
	CHECK(payload(h)[16] == 0x5a && payload(h)[999] == 0x5a, "bytes behind nm_len were changed");
}

int main(void)
{
	s = ring_open(NETLINK_ROUTE, GEOM(4096, 4, 2048), GEOM(4096, 4, 2048));
	many_in_one_call();
	nothing_valid();
	gap();
	oversized_stays();
	refused_is_consumed();
	not_scrubbed();
	many_in_one_call();
	ok();
	return 0;
}
