/* device_holes NODE: punches holes into its rings (MADV_REMOVE goes to the memory itself, which nobody can forbid) while
 * they are at work. A page without content reads as zeroes, so frames in it are UNUSED: messages in it are lost, and nothing
 * else. Afterwards the rings work as before. */
#include "device.h"
#include <pthread.h>

static volatile int stop;

static void *punch(void *arg)
{
	struct device *d = arg;
	size_t len = d->rx_len + d->tx_len, at = 0;
	while (!stop) {
		CHECK(!madvise(d->rings + at, 4096, MADV_REMOVE), "madvise: %s", strerror(errno));
		at = (at + 5 * 4096) % len;
		/* Once around it pauses: else a frame is always gone before the daemon, some 100 us later, comes to it. */
		if (at < 5 * 4096)
			usleep(1000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char buf[8192], req[64];
	struct device d;
	pthread_t thread;
	unsigned i, seq;
	int had = 0;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	device_open(&d, argv[1], NETLINK_ROUTE);
	device_rings(&d, 65536, 4, 2048);
	CALL(fcntl(d.fd, F_SETFL, O_NONBLOCK));
	CHECK(!pthread_create(&thread, NULL, punch, &d), "pthread_create");
	for (i = 0; i < 5000; i++) {
		struct nl_mmap_hdr *h = frame_at(&d, d.rx_len, i);
		struct nlmmap_kick kick = { .sent = 0 };
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		memcpy((char *)h + NL_MMAP_HDRLEN, request(req, NLMSG_NOOP, NLM_F_ACK, i, 0), NLMSG_LENGTH(0));
		h->nm_len = NLMSG_LENGTH(0);
		set_status(h, NL_MMAP_STATUS_VALID);
		ioctl(d.fd, NLMMAP_KICK, &kick);
		had += kick.sent != 0;
		poll(&p, 1, 0);
		if (status_of(frame_at(&d, 0, i)) == NL_MMAP_STATUS_COPY)
			while (read(d.fd, buf, sizeof buf) > 0)
				;
	}
	stop = 1;
	pthread_join(thread, NULL);
	CHECK(had > 0, "nothing was sent");
	/* Whole again: where the daemon is, a client that has lost its place finds by emptying all, and going round once. */
	for (i = 0; i < d.req.nm_frame_nr; i++) {
		set_status(frame_at(&d, 0, i), NL_MMAP_STATUS_UNUSED);
		set_status(frame_at(&d, d.rx_len, i), NL_MMAP_STATUS_UNUSED);
	}
	while (read(d.fd, buf, sizeof buf) > 0)
		;
	for (seq = 100000; seq < 100000 + 2 * d.req.nm_frame_nr; seq++) {
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		int found = 0;
		CALL(write(d.fd, request(req, NLMSG_NOOP, NLM_F_ACK, seq, 0), NLMSG_LENGTH(0)));
		CHECK(poll(&p, 1, 20000) == 1, "no answer to request %u", seq);
		for (i = 0; i < d.req.nm_frame_nr; i++) {
			struct nl_mmap_hdr *h = frame_at(&d, 0, i);
			if (status_of(h) != NL_MMAP_STATUS_VALID)
				continue;
			found += ack_of((char *)h + NL_MMAP_HDRLEN, h->nm_len, seq) == 0;
			set_status(h, NL_MMAP_STATUS_UNUSED);
		}
		CHECK(found == 1, "%d answers to request %u", found, seq);
	}
	puts("whole again");
	return 0;
}
