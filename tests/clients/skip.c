/* Worker threads with SKIP (clients.md 8): the reader marks a frame SKIP, a worker checks its payload
 * and releases it to UNUSED in whatever order workers finish; look-ups run past the head. */
#include "msg.h"
#include <pthread.h>

/* The ring's 64 frames may all be jobs at once, and the ends that are told to the workers come behind them. */
enum { WORKERS = 4, TOTAL = 4000, JOBS = 128 };
static struct sock s;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static struct { struct nl_mmap_hdr *frame; uint32_t seq; } jobs[JOBS];
static unsigned put, taken;
static volatile unsigned char seen[TOTAL];
static volatile uint32_t *released; /* all messages before this one: the ring may come round so far */

static void *worker(void *arg)
{
	unsigned mine = (unsigned)(uintptr_t)arg, n = 0;
	for (;;) {
		struct nl_mmap_hdr *h;
		uint32_t seq;
		pthread_mutex_lock(&lock);
		while (taken == put)
			pthread_cond_wait(&filled, &lock);
		h = jobs[taken % JOBS].frame;
		seq = jobs[taken++ % JOBS].seq;
		pthread_mutex_unlock(&lock);
		if (!h)
			return NULL;
		if (++n % 16 == mine)
			usleep(500 * mine); /* the frame stays SKIP while later ones are released */
		check_user(payload(h), h->nm_len, seq);
		CHECK(status_of(h) == NL_MMAP_STATUS_SKIP, "a SKIP frame turned %u under its worker", status_of(h));
		set_status(h, NL_MMAP_STATUS_UNUSED);
		seen[seq]++;
	}
}

static void count_released(void)
{
	while (*released < TOTAL && seen[*released])
		++*released;
}

static void hand_over(struct nl_mmap_hdr *h, uint32_t seq)
{
	pthread_mutex_lock(&lock);
	CHECK(put - taken < JOBS, "job %u is not taken yet, and %u is to take its place", taken, put);
	jobs[put % JOBS].frame = h;
	jobs[put++ % JOBS].seq = seq;
	pthread_cond_signal(&filled);
	pthread_mutex_unlock(&lock);
}

int main(void)
{
	pthread_t t[WORKERS];
	char buf[1024];
	uint32_t i;
	pid_t pid;

	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 16, 1024), NO_RING);
	released = shared_counter();
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_USERSOCK);
		for (i = 0; i < TOTAL; i++) {
			size_t len = 64 + i % 800;
			await_window(released, i, s.rx.frame_nr); /* a stall is overrun.c's subject */
			CHECK_CALL(plain_send(fd, msg_user(buf, len, i), len, s.port, 0));
		}
		_exit(0);
	}
	for (i = 0; i < WORKERS; i++)
		CHECK(pthread_create(&t[i], NULL, worker, (void *)(uintptr_t)i) == 0, "pthread_create");
	for (i = 0; i < TOTAL; i++) {
		struct nl_mmap_hdr *h = head(&s.rx);
		long end = now_ms() + 5000;
		while (!ready(&s.rx)) {
			struct pollfd p = { s.fd, POLLIN, 0 };
			CHECK(now_ms() < end, "message %u did not come, head frame %u has status %u", i, s.rx.pos,
			      status_of(h));
			count_released();
			CHECK_CALL(poll(&p, 1, 5));
			CHECK(!(p.revents & POLLERR), "overrun at message %u", i);
		}
		if (status_of(h) == NL_MMAP_STATUS_COPY) {
			/* 4.5 built user messages outside the ring: the payload goes where its worker looks. */
			CHECK(recv(s.fd, payload(h), h->nm_len, MSG_DONTWAIT) == (ssize_t)h->nm_len, "recv: %s",
			      strerror(errno));
		}
		set_status(h, NL_MMAP_STATUS_SKIP);
		advance(&s.rx);
		hand_over(h, i);
		count_released();
	}
	hand_over(NULL, 0);
	for (i = 1; i < WORKERS; i++)
		hand_over(NULL, 0);
	for (i = 0; i < WORKERS; i++)
		pthread_join(t[i], NULL);
	join_child(pid);
	for (i = 0; i < TOTAL; i++)
		CHECK(seen[i] == 1, "message %u was handled %u times", i, seen[i]);
	ok();
	return 0;
}
