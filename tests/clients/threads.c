/* Several threads on one ring socket (argv[1]): `wait` - four wait, each arrival wakes at least one
 * and frames are taken under a lock; `receive` - four call recv for COPY messages; `kick` - four
 * fill frames under a lock and kick without it. */
#include "msg.h"
#include <pthread.h>

enum { THREADS = 4, TOTAL = 4000 };
static struct sock s;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char seen[TOTAL];
static volatile int taken;
static pthread_barrier_t start;

static void *waiter(void *arg UNUSED_ARG)
{
	char buf[2048];
	while (taken < TOTAL) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		ssize_t n;
		CHECK_CALL(poll(&p, 1, 50));
		pthread_mutex_lock(&lock);
		while (taken < TOTAL && (n = rx_next(&s, buf, sizeof buf, NULL)) > 0) {
			check_user(buf, n, taken);
			seen[taken]++;
			taken++;
		}
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void *receiver(void *arg UNUSED_ARG)
{
	char buf[2048];
	for (;;) {
		ssize_t n = recv(s.fd, buf, sizeof buf, 0);
		uint32_t seq = ((struct nlmsghdr *)buf)->nlmsg_seq;
		CHECK(n > 0, "recv: %s", strerror(errno));
		if (seq >= TOTAL)
			return NULL;
		check_user(buf, n, seq);
		pthread_mutex_lock(&lock);
		seen[seq]++;
		taken++;
		pthread_mutex_unlock(&lock);
		/* Whose message a frame announced does not matter: as many frames as messages. */
		pthread_mutex_lock(&lock);
		CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_COPY, "a message without its COPY frame");
		set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
		pthread_mutex_unlock(&lock);
	}
}

static ssize_t kicked_bytes;
static int put;

static void *kicker(void *arg)
{
	uint32_t port = (uint32_t)(uintptr_t)arg;
	char buf[256];
	pthread_barrier_wait(&start);
	for (;;) {
		ssize_t r;
		pthread_mutex_lock(&lock);
		if (put == TOTAL) {
			pthread_mutex_unlock(&lock);
			return NULL;
		}
		if (status_of(head(&s.tx)) == NL_MMAP_STATUS_UNUSED)
			tx_put(&s, msg_user(buf, 100, put++), 100);
		pthread_mutex_unlock(&lock);
		r = tx_kick_to(&s, port, 0);
		CHECK(r >= 0 && r % 100 == 0, "kick returned %zd: %s", r, strerror(errno));
		__sync_fetch_and_add(&kicked_bytes, r);
	}
}

static pid_t feeder(size_t size, int frames)
{
	pid_t pid = fork();
	int i;
	CHECK_CALL(pid);
	if (pid == 0) {
		char buf[4096];
		int fd = plain_open(NETLINK_USERSOCK);
		for (i = 0; i < TOTAL; i++) {
			CHECK_CALL(plain_send(fd, msg_user(buf, size, i), size, s.port, 0));
			if (i % (frames / 2) == 0)
				usleep(3000);
		}
		for (i = 0; i < THREADS; i++) { /* the end, for threads in a blocking recv */
			msleep(100);
			CHECK_CALL(plain_send(fd, msg_user(buf, size, TOTAL + i), size, s.port, 0));
		}
		_exit(0);
	}
	return pid;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "wait";
	pthread_t t[THREADS];
	int i, rx = -1;
	pid_t pid = -1;
	uint32_t port = 0;

	pthread_barrier_init(&start, NULL, THREADS);
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 64, 1024), GEOM(4096, 2, 1024));
	if (!strcmp(mode, "kick")) {
		rx = plain_open(NETLINK_USERSOCK);
		port = port_of(rx);
	} else
		pid = feeder(!strcmp(mode, "receive") ? 1500 : 300, 256);
	for (i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i], NULL,
				     rx >= 0 ? kicker : !strcmp(mode, "receive") ? receiver : waiter,
				     (void *)(uintptr_t)port) == 0, "pthread_create");
	if (rx >= 0) {
		char buf[256];
		for (i = 0; i < TOTAL; i++) { /* sent under the pump's order: frame order */
			ssize_t n = recv(rx, buf, sizeof buf, 0);
			check_user(buf, n, i);
			seen[i]++;
		}
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	if (pid > 0)
		join_child(pid);
	if (rx >= 0)
		CHECK(kicked_bytes == TOTAL * 100, "kicks account for %zd bytes of %d", kicked_bytes, TOTAL * 100);
	for (i = 0; i < TOTAL; i++)
		CHECK(seen[i] == 1, "message %d was handled %u times", i, seen[i]);
	ok();
	return 0;
}
