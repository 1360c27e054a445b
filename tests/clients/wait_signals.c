/* A signal ends every kind of wait, at whatever moment it comes: also where the library looks at memory again and again since
 * messages wait in the socket that the ring cannot take (frames parked as SKIP). */
#include "msg.h"
#include "waiter.h"
#include <pthread.h>
#include <sys/time.h>

static volatile int caught;
static const char *volatile where = "nothing";

static void handler(int sig UNUSED_ARG)
{
	caught++;
}

static void *watchdog(void *arg UNUSED_ARG)
{
	msleep(30000);
	FAIL("a signal did not end %s", where);
	return NULL;
}

int main(int argc, char **argv UNUSED_ARG)
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(4096, 1, 1024), NO_RING);
	socklen_t len = sizeof(int);
	sigset_t all, old;
	char m[64];
	unsigned i, w;
	int error;
	pthread_t t;

	for (i = 0; i < 4; i++) {
		CHECK_CALL(plain_send(s.fd, msg_ack(m, i), 16, 0, 0));
		CHECK(status_of(frame_at(&s.rx, i)) == NL_MMAP_STATUS_VALID, "no ack in frame %u", i);
		set_status(frame_at(&s.rx, i), NL_MMAP_STATUS_SKIP);
	}
	CHECK_CALL(plain_send(s.fd, msg_ack(m, i), 16, 0, 0));
	/* strict mode loses it, and says so */
	CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &error, &len));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	CHECK(pthread_create(&t, NULL, watchdog, NULL) == 0, "pthread_create");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	sigaction(SIGALRM, &a, NULL);
	for (w = 0; w < sizeof waiters / sizeof *waiters && !waiters[w].is_raw; w++)
		for (i = 0; i < 60; i++) {
			/* With an argument it comes again: where a call takes its time to begin, the first may come before that. */
			struct itimerval at = { { 0, argc > 1 ? 50000 : 0 }, { 0, 3000 + i * 171 } };
			sigset_t now;
			int r;
			where = waiters[w].name;
			CHECK_CALL(setitimer(ITIMER_REAL, &at, NULL));
			r = waiters[w].wait(s.fd, -1);
			CHECK(r < 0 && errno == EINTR, "%s: %d %s", where, r, r < 0 ? strerror(errno) : "");
			pthread_sigmask(SIG_SETMASK, NULL, &now);
			CHECK(!memcmp(&now, &old, 8), "%s left signals blocked", where);
		}
	ok();
	return 0;
}
