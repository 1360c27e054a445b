/* One thread blocks in recv for COPY messages while others of the same socket wait for frames (argv[1]: a way of waiting)
 * and release them: nobody takes what is the other's, nobody misses anything, and the receiver does not run in circles while
 * frames wait for the others. */
#include "msg.h"
#include "waiter.h"
#include <pthread.h>

/* Messages of LARGE bytes fit no frame. */
enum { TOTAL = 400, LAST = 0xfffff, LARGE = 1500 };

static struct sock s;
static int sender;
static volatile uint32_t received, acks;
static volatile long receiver_us;

static void *receiver(void *arg UNUSED_ARG)
{
	char buf[4096];
	struct timespec t;
	for (;;) {
		ssize_t n = recv(s.fd, buf, sizeof buf, 0);
		CHECK(n >= 0 || errno == ENOBUFS, "recv: %s", strerror(errno));
		if (n < 0)
			continue;
		if (((struct nlmsghdr *)buf)->nlmsg_seq == LAST)
			break;
		check_user(buf, n, received);
		received++;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	receiver_us = t.tv_sec * 1000000 + t.tv_nsec / 1000;
	return NULL;
}

int main(int argc, char **argv)
{
	const struct waiter *w = find_waiter(argc > 1 ? argv[1] : "poll");
	char buf[4096];
	uint32_t sent = 0, asked = 0;
	pthread_t t;
	long end = now_ms() + 30000;

	s = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 1024), NO_RING);
	sender = plain_open(NETLINK_ROUTE);
	CHECK(pthread_create(&t, NULL, receiver, NULL) == 0, "pthread_create");
	while (acks < TOTAL || received < TOTAL) {
		struct nl_mmap_hdr *h;
		CHECK(now_ms() < end, "%u of %u acks, %u of %u messages", acks, asked, received, sent);
		if (sent < TOTAL && sent - received < 4) {
			plain_send(sender, msg_user(buf, LARGE, sent), LARGE, s.port, 0);
			sent++;
		}
		if (asked < TOTAL && asked - acks < 4) {
			CHECK_CALL(plain_send(s.fd, msg_ack(buf, asked), 16, 0, 0));
			asked++;
		}
		CHECK_CALL(w->wait(s.fd, 20));
		while (h = head(&s.rx), ready(&s.rx)) {
			if (status_of(h) == NL_MMAP_STATUS_VALID) {
				check_error(payload(h), h->nm_len, acks, 0);
				acks++;
			}
			set_status(h, NL_MMAP_STATUS_UNUSED);
			advance(&s.rx);
		}
	}
	/* a frame that stays: poll goes on reporting it, and the receiver sleeps all the same */
	CHECK_CALL(plain_send(s.fd, msg_ack(buf, asked), 16, 0, 0));
	for (end = now_ms() + 500; now_ms() < end; msleep(1))
		CHECK(w->wait(s.fd, 0) == 1 || w->is_raw, "a frame waits, and %s does not report it", w->name);
	plain_send(sender, msg_user(buf, LARGE, LAST), LARGE, s.port, 0);
	CHECK(pthread_join(t, NULL) == 0, "pthread_join");
	CHECK(receiver_us < 300000, "the receiver used %ld us", receiver_us);
	ok();
	return 0;
}
