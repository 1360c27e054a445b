/* What must reach a thread that waits in a call on a socket with rings, though another process answers it: a stop and its end, a
 * tracer, a signal of its process that any thread may take, a signal mask of the wait. The wait goes on as the kernel's would. */
#include "msg.h"
#include <poll.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/select.h>

enum { LIMIT = 900, STOPPED = 300, SIGNALS = 400, LATE = 2000 };

static char buf[8192];
static struct sock s;
static volatile int caught;

static void handler(int sig UNUSED_ARG)
{
	caught++;
}

static void on(int sig, int flags)
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = flags };
	sigaction(sig, &a, NULL);
}

static struct sock opened(void)
{
	return ring_open(NETLINK_USERSOCK, GEOM(8192, 2, 2048), NO_RING);
}

/* By COPY: it fits no frame. */
static void message(struct sock *to, uint32_t seq)
{
	static char m[3000];
	int fd = plain_open(NETLINK_USERSOCK);
	CHECK_CALL(plain_send(fd, msg_user(m, sizeof m, seq), sizeof m, to->port, 0));
	close(fd);
}

/* ---- stops and tracers ---- */

static int by_poll(void)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	return poll(&p, 1, LIMIT);
}

static int by_select(void)
{
	struct timeval t = { 0, LIMIT * 1000 };
	fd_set in;
	FD_ZERO(&in);
	FD_SET(s.fd, &in);
	return select(s.fd + 1, &in, NULL, NULL, &t);
}

static int by_ppoll(void)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	struct timespec t = { 0, LIMIT * 1000000L };
	sigset_t none;
	sigemptyset(&none);
	return ppoll(&p, 1, &t, &none);
}

static void stands(pid_t pid, const char *what)
{
	long end = now_ms() + LATE;
	int status;
	while (waitpid(pid, &status, WUNTRACED | WNOHANG) == 0) {
		CHECK(now_ms() < end, "%s: the thread does not stop", what);
		msleep(1);
	}
	CHECK(WIFSTOPPED(status), "%s: status %#x", what, status);
}

/* Its time is over when it is, stopped or not, and nothing but its time ends the wait. */
static void goes_on(int (*wait)(void), const char *what, int traced)
{
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		long start = now_ms(), took;
		int r = wait();
		took = now_ms() - start;
		CHECK(r == 0, "%s: %d %s", what, r, r < 0 ? strerror(errno) : "");
		CHECK(took >= LIMIT - 1 && took < LIMIT + LATE, "%s: %ld ms instead of %d", what, took, LIMIT);
		_exit(0);
	}
	msleep(150);
	if (traced)
		CHECK_CALL(ptrace(PTRACE_ATTACH, pid, 0, 0));
	else
		CHECK_CALL(kill(pid, SIGSTOP));
	stands(pid, what);
	msleep(STOPPED);
	if (traced)
		CHECK_CALL(ptrace(PTRACE_DETACH, pid, 0, 0));
	else
		CHECK_CALL(kill(pid, SIGCONT));
	join_child(pid);
}

/* A receive without a limit outlasts a stop. */
static void receive_goes_on(void)
{
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		ssize_t n = recv(s.fd, buf, sizeof buf, 0);
		CHECK(n == 3000, "recv: %zd %s", n, n < 0 ? strerror(errno) : "");
		_exit(0);
	}
	msleep(150);
	CHECK_CALL(kill(pid, SIGSTOP));
	stands(pid, "recv");
	CHECK_CALL(kill(pid, SIGCONT));
	msleep(100);
	message(&s, 1);
	join_child(pid);
	set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
	advance(&s.rx);
}

/* ---- signals of a process whose threads wait ---- */

static struct sock of[4];
static volatile int over, ended[4];

static void *waits(void *arg)
{
	int nr = (int)(long)arg;
	static char m[4][4096];
	while (!over) {
		struct pollfd p = { of[nr].fd, POLLIN, 0 };
		ssize_t r = nr < 2 ? poll(&p, 1, -1) : recv(of[nr].fd, m[nr], sizeof m[nr], 0);
		CHECK(r > 0 || errno == EINTR, "thread %d: error %d", nr, errno);
		CHECK(r < 0 || over, "thread %d: %zd without a message", nr, r);
		if (r < 0)
			ended[nr]++;
	}
	return NULL;
}

static void shared_signals(int flags)
{
	pthread_t t[4];
	long i, end;
	over = caught = 0;
	on(SIGUSR1, flags);
	for (i = 0; i < 4; i++) {
		of[i] = opened();
		ended[i] = 0;
		CHECK(pthread_create(&t[i], NULL, waits, (void *)i) == 0, "pthread_create");
	}
	msleep(20);
	for (i = 0; i < SIGNALS; i++) {
		CHECK_CALL(kill(getpid(), SIGUSR1));
		CHECK(pthread_kill(t[i % 4], SIGUSR1) == 0, "pthread_kill");
		msleep(i % 3);
	}
	for (end = now_ms() + 5000; !ended[0] || !ended[1] || (!flags && (!ended[2] || !ended[3])); msleep(1))
		CHECK(now_ms() < end, "a wait of these did not end: %d %d %d %d", ended[0], ended[1], ended[2], ended[3]);
	CHECK(!flags || (!ended[2] && !ended[3]), "receives that should go on have ended: %d %d", ended[2], ended[3]);
	CHECK(caught > SIGNALS / 4, "%d signals", caught);
	over = 1;
	for (i = 0; i < 4; i++)
		message(&of[i], i);
	for (i = 0; i < 4; i++) {
		CHECK(pthread_join(t[i], NULL) == 0, "pthread_join");
		munmap(of[i].map, of[i].len);
		close(of[i].fd);
	}
}

/* ---- masks ---- */

static void masked(void)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	struct timespec t = { 0, LIMIT * 1000000L };
	sigset_t usr1, none;
	long start;
	pid_t pid;
	int r;
	on(SIGUSR1, SA_RESTART);
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	/* blocked by the wait alone: it comes behind it */
	caught = 0;
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		msleep(150);
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	start = now_ms();
	r = ppoll(&p, 1, &t, &usr1);
	CHECK(r == 0, "a signal that is blocked ends the wait: %s", strerror(errno));
	CHECK(now_ms() - start >= LIMIT - 1, "after %ld ms", now_ms() - start);
	join_child(pid);
	CHECK(caught == 1, "%d signals behind the wait", caught);
	/* open in the wait alone: it ends it, though it was there before */
	CHECK(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0, "pthread_sigmask");
	CHECK_CALL(raise(SIGUSR1));
	start = now_ms();
	r = ppoll(&p, 1, &t, &none);
	CHECK(r < 0 && errno == EINTR && caught == 2, "ppoll: %d %s, %d signals", r, strerror(errno), caught);
	CHECK(now_ms() - start < LIMIT, "after %ld ms", now_ms() - start);
	CHECK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) == 0, "pthread_sigmask");
}

int main(void)
{
	s = opened();
	goes_on(by_poll, "poll", 0);
	goes_on(by_select, "select", 0);
	goes_on(by_ppoll, "ppoll", 0);
	goes_on(by_poll, "poll, traced", 1);
	receive_goes_on();
	shared_signals(0);
	shared_signals(SA_RESTART);
	masked();
	ok();
	return 0;
}
