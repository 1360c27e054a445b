/* Shared memory is hostile: a second thread writes random values into every word of the mapping
 * (argv[1]: headers, lengths, all) while traffic flows both ways. No crash, no call that hangs, no
 * other endpoint harmed; afterwards the same process opens a clean endpoint that works. */
#include "msg.h"
#include <pthread.h>

static struct sock s;
static const char *mode;
static volatile int stop;

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static uint32_t evil(uint64_t r)
{
	static const uint32_t v[] = { 0, 1, 2, 3, 4, 5, 24, 1000, 0x7fffffff, 0x80000000, 0xffffffff, 4096, 65536 };
	return r >> 32 & 3 ? v[r % (sizeof v / sizeof *v)] : (uint32_t)r;
}

static void *scribble(void *arg UNUSED_ARG)
{
	uint64_t x = 88172645463325252ull;
	while (!stop) {
		uint64_t r = next_random(&x);
		struct ring *ring = r & 1 ? &s.rx : &s.tx;
		volatile uint32_t *h = (void *)frame_at(ring, (r >> 8) % ring->frame_nr);
		if (!strcmp(mode, "lengths"))
			h[1] = evil(next_random(&x));
		else if (!strcmp(mode, "headers"))
			h[(r >> 40) % 6] = evil(next_random(&x));
		else
			((volatile uint32_t *)s.map)[(r >> 16) % (s.len / 4)] = evil(next_random(&x));
		if (r % 512 == 0)
			h[0] = NL_MMAP_STATUS_UNUSED;
	}
	return NULL;
}

static void one_round(int tx, int bystander_tx, struct sock *bystander, uint32_t i)
{
	static char buf[65536];
	struct pollfd p = { s.fd, POLLIN, 0 };
	size_t len = 32 + i * 37 % 3000;
	struct nl_mmap_hdr *h = frame_at(&s.tx, i % s.tx.frame_nr);
	ssize_t n;
	sendto(tx, msg_user(buf, len, i), len, MSG_DONTWAIT,
	       (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = s.port },
	       sizeof(struct sockaddr_nl));
	CHECK(poll(&p, 1, 0) >= 0, "poll: %s", strerror(errno));
	n = recv(s.fd, buf, sizeof buf, MSG_DONTWAIT);
	CHECK(n <= 3100, "recv gave %zd bytes, nothing that long was sent", n);
	memcpy(payload(h), msg_user(buf, 64, i), 64);
	h->nm_len = 64;
	set_status(h, NL_MMAP_STATUS_VALID);
	sendto(s.fd, NULL, 0, MSG_DONTWAIT,
	       (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = s.port },
	       sizeof(struct sockaddr_nl));
	set_status(frame_at(&s.rx, i % s.rx.frame_nr), NL_MMAP_STATUS_UNUSED);
	if (i % 8 == 0) {
		CHECK_CALL(plain_send(bystander_tx, msg_user(buf, 200, i), 200, bystander->port, 0));
		check_user(buf, rx_take(bystander, buf, sizeof buf, NULL, 2000), i);
	}
}

int main(int argc, char **argv)
{
	struct sock bystander;
	int tx = plain_open(NETLINK_USERSOCK), btx = plain_open(NETLINK_USERSOCK);
	pthread_t t;
	uint32_t i;
	long end = now_ms() + 3000;
	char buf[4096];

	mode = argc > 1 ? argv[1] : "all";
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 2, 2048));
	bystander = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
	CHECK(pthread_create(&t, NULL, scribble, NULL) == 0, "pthread_create");
	/* On a busy machine longer, for as many rounds: each of them is bounded. */
	for (i = 0; now_ms() < end || i <= 200; i++) {
		long start = now_ms();
		one_round(tx, btx, &bystander, i);
		CHECK(now_ms() - start < 3000, "round %u took %ld ms", i, now_ms() - start);
	}
	stop = 1;
	pthread_join(t, NULL);
	CHECK_CALL(close(s.fd));
	CHECK_CALL(munmap(s.map, s.len));
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
	CHECK_CALL(plain_send(tx, msg_user(buf, 300, 1), 300, s.port, 0));
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
	ok();
	return 0;
}
