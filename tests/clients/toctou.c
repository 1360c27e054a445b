/* A second thread keeps rewriting nm_len and the payload of a TX frame during the kick: the frame
 * is read once. What arrives has the length that the kick accounted for (complaint 1). */
#include "msg.h"
#include <pthread.h>

static struct nl_mmap_hdr *volatile target;
static volatile int stop;

static void *scribble(void *arg UNUSED_ARG)
{
	unsigned i = 0;
	while (!stop) {
		struct nl_mmap_hdr *h = target;
		*(volatile unsigned *)&h->nm_len = ++i & 1 ? 64 : 1024;
		*(volatile unsigned *)(payload(h) + 32) = i;
		if (i % 64 == 0)
			*(volatile unsigned *)&h->nm_len = 0x7fffffff;
	}
	return NULL;
}

int main(void)
{
	struct sock s = ring_open(NETLINK_USERSOCK, NO_RING, GEOM(4096, 2, 2048));
	int rx = plain_open(NETLINK_USERSOCK), i, sent = 0, refused = 0;
	uint32_t port = port_of(rx);
	pthread_t t;
	char buf[4096];

	target = head(&s.tx);
	CHECK(pthread_create(&t, NULL, scribble, NULL) == 0, "pthread_create");
	for (i = 0; i < 30000; i++) {
		struct nl_mmap_hdr *h = head(&s.tx);
		ssize_t r, got;
		target = h;
		h->nm_len = 64;
		set_status(h, NL_MMAP_STATUS_VALID);
		r = tx_kick_to(&s, port, 0);
		if (r < 0) {
			CHECK(errno == EINVAL, "kick: %s", strerror(errno));
			CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "a refused frame must stay VALID");
			set_status(h, NL_MMAP_STATUS_UNUSED);
			refused++;
			continue;
		}
		CHECK(r == 64 || r == 1024, "the kick accounts for %zd bytes, neither length that was written", r);
		got = recv(rx, buf, sizeof buf, MSG_DONTWAIT);
		CHECK(got == r, "the kick accounts for %zd bytes, %zd arrived", r, got);
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "a sent frame is not UNUSED");
		advance(&s.tx);
		sent++;
	}
	stop = 1;
	pthread_join(t, NULL);
	CHECK(sent > 100, "only %d frames went out, %d refused", sent, refused);
	ok();
	return 0;
}
