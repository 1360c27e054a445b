/* Every blocking receive, every way it can end, every state of the ring, beside a plain socket, which must answer the same
 * where the cell makes sense (argv[1]: one end only). Nothing hangs, time limits are exact from below, and a thread that waits
 * uses no processor. One process a cell of end and state; each goes through all calls. */
#include "msg.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/time.h>

/* A message of LARGE bytes fits no frame. */
enum { LIMIT = 60, LONG = 200, LATE = 2500, LARGE = 5000 };

/* ---- the calls ---- */

static char buf[8192];

static ssize_t by_recv(int fd)
{
	return recv(fd, buf, sizeof buf, 0);
}

static ssize_t by_waitall(int fd)
{
	return recv(fd, buf, sizeof buf, MSG_WAITALL);
}

static ssize_t by_peek(int fd)
{
	return recv(fd, buf, sizeof buf, MSG_PEEK);
}

static ssize_t by_errqueue(int fd)
{
	return recv(fd, buf, sizeof buf, MSG_ERRQUEUE);
}

static ssize_t by_recvfrom(int fd)
{
	struct sockaddr_nl from;
	socklen_t len = sizeof from;
	return recvfrom(fd, buf, sizeof buf, 0, (struct sockaddr *)&from, &len);
}

static ssize_t by_recvmsg(int fd)
{
	struct iovec v = { buf, sizeof buf };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	return recvmsg(fd, &m, 0);
}

static ssize_t several(int fd, struct timespec *limit)
{
	struct iovec v = { buf, sizeof buf };
	struct mmsghdr m[2] = { { .msg_hdr = { .msg_iov = &v, .msg_iovlen = 1 } } };
	int n;
	m[1] = m[0];
	n = recvmmsg(fd, m, 2, MSG_WAITFORONE, limit);
	return n < 0 ? n : (ssize_t)m[0].msg_len;
}

static ssize_t by_recvmmsg(int fd)
{
	return several(fd, NULL);
}

/* Its limit is looked at after a message and ends no wait. */
static ssize_t by_limited(int fd)
{
	struct timespec t = { 0, 5000000 };
	return several(fd, &t);
}

static ssize_t by_read(int fd)
{
	return read(fd, buf, sizeof buf);
}

static ssize_t by_readv(int fd)
{
	struct iovec v[2] = { { buf, 10 }, { buf + 10, sizeof buf - 10 } };
	return readv(fd, v, 2);
}

static const struct call {
	const char *name;
	ssize_t (*call)(int fd);
} calls[] = {
	{ "recv", by_recv },
	{ "recv WAITALL", by_waitall },
	{ "recv PEEK", by_peek },
	{ "recv ERRQUEUE", by_errqueue },
	{ "recvfrom", by_recvfrom },
	{ "recvmsg", by_recvmsg },
	{ "recvmmsg", by_recvmmsg },
	{ "recvmmsg with a limit", by_limited },
	{ "read", by_read },
	{ "readv", by_readv },
};

/* ---- the states ---- */

enum state { PLAIN, EMPTY, VALID, COPY, FULL, OVERRUN, STATES };
static const char *const state_names[] = { "plain", "empty", "VALID", "COPY", "full", "overrun" };

static const char *where;
static enum state now_in;
#define SAY(cond, ...) do { if (!(cond)) { fprintf(stderr, "%s: ", where); FAIL(__VA_ARGS__); } } while (0)

static struct sock s;
static int peer;

/* An ack: VALID in either mode. */
static void frame(void)
{
	char m[64];
	CHECK_CALL(plain_send(s.fd, msg_ack(m, 7), 16, 0, 0));
}

/* A message that fits no frame: COPY in either mode. */
static void copy(uint32_t seq)
{
	static char m[LARGE];
	ssize_t n = plain_send(peer, msg_user(m, LARGE, seq), LARGE, s.port, 0);
	/* a congested receiver refuses, and that is no matter of the receive */
	CHECK(n == LARGE || errno == EAGAIN, "sending to the ring: %s", strerror(errno));
}

static void release_all(void)
{
	unsigned i;
	for (i = 0; i < s.rx.frame_nr; i++)
		set_status(frame_at(&s.rx, i), NL_MMAP_STATUS_UNUSED);
}

static void make(enum state state)
{
	int i;
	now_in = state;
	if (state == PLAIN) {
		memset(&s, 0, sizeof s);
		s.fd = plain_open(NETLINK_ROUTE);
		s.port = port_of(s.fd);
	} else
		s = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 4096), NO_RING);
	peer = plain_open(NETLINK_ROUTE);
	CHECK_CALL(fcntl(peer, F_SETFL, O_NONBLOCK));
	if (state == VALID)
		frame();
	if (state == COPY)
		copy(1);
	if (state == FULL || state == OVERRUN)
		for (i = 0; i < 4; i++)
			frame();
	if (state == OVERRUN) {
		frame();
		msleep(10);
		/* told once, and no more of it */
		SAY(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) < 0, "a message though the ring is full");
		SAY(errno == ENOBUFS || errno == EAGAIN, "recv: %s", strerror(errno));
		recv(s.fd, buf, sizeof buf, MSG_DONTWAIT);
	}
}

static void unmake(enum state state)
{
	if (state != PLAIN)
		munmap(s.map, s.len);
	close(s.fd);
	close(peer);
}

static void limit(long ms)
{
	struct timeval t = { ms / 1000, ms % 1000 * 1000 };
	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
}

static sigjmp_buf jump;
static volatile int jumps, caught;

static void handler(int sig UNUSED_ARG)
{
	caught++;
	if (jumps)
		siglongjmp(jump, 1);
}

static void alarm_after(long ms, int flags)
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = flags };
	struct itimerval t = { { 0, 0 }, { ms / 1000, ms % 1000 * 1000 } };
	caught = 0;
	sigaction(SIGALRM, &a, NULL);
	CHECK_CALL(setitimer(ITIMER_REAL, &t, NULL));
}

/* Something that another thread does after `ms`; signals are not its business. */
static void (*later_do)(void);
static long later_ms;

static void *later_run(void *arg UNUSED_ARG)
{
	msleep(later_ms);
	later_do();
	return NULL;
}

static pthread_t later(long ms, void (*what)(void))
{
	pthread_t t;
	sigset_t all, old;
	later_ms = ms;
	later_do = what;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	CHECK(pthread_create(&t, NULL, later_run, NULL) == 0, "pthread_create");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return t;
}

static long cpu_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- the ends ---- */

static void failed_after(ssize_t n, double began, int error, double least)
{
	int e = errno;
	double ms = now() - began;
	SAY(n < 0, "%zd bytes instead of an end by %s", n, strerror(error));
	SAY(e == error, "%s instead of %s, after %.1f ms", strerror(e), strerror(error), ms);
	SAY(ms >= least - 0.5, "%s after %.1f ms, too early", strerror(e), ms);
	SAY(ms < least + LATE, "%s after %.1f ms, too late", strerror(e), ms);
}

static void got(ssize_t n, uint32_t seq)
{
	SAY(n == LARGE, "%zd %s instead of message %u", n, n < 0 ? strerror(errno) : "bytes", seq);
	SAY(((struct nlmsghdr *)buf)->nlmsg_seq == seq, "message %u instead of %u", ((struct nlmsghdr *)buf)->nlmsg_seq, seq);
}

static void end_at_once(const struct call *c, enum state state)
{
	double began;
	CHECK_CALL(fcntl(s.fd, F_SETFL, O_NONBLOCK));
	began = now();
	if (state == COPY)
		got(c->call(s.fd), 1);
	else
		failed_after(c->call(s.fd), began, EAGAIN, 0);
	SAY(now() - began < LATE, "a receive that must not block took %.1f ms", now() - began);
}

static void end_time(const struct call *c, enum state state)
{
	double began;
	long cpu;
	ssize_t n;
	limit(LONG);
	began = now();
	cpu = cpu_us();
	n = c->call(s.fd);
	cpu = cpu_us() - cpu;
	if (state == COPY) {
		got(n, 1);
		return;
	}
	failed_after(n, began, EAGAIN, LONG);
	SAY(cpu < LONG * 1000 / 10, "%ld us of processor time in a wait of %d ms", cpu, LONG);
}

static void end_signal(const struct call *c, enum state state)
{
	double began = now();
	alarm_after(LIMIT, 0);
	if (state == COPY)
		got(c->call(s.fd), 1);
	else
		failed_after(c->call(s.fd), began, EINTR, LIMIT);
	alarm_after(0, 0);
}

/* With a time limit, Linux never restarts a receive (signal(7)). */
static void end_limited_signal(const struct call *c, enum state state)
{
	double began = now();
	limit(LONG + LATE);
	alarm_after(LIMIT, SA_RESTART);
	if (state == COPY)
		got(c->call(s.fd), 1);
	else
		failed_after(c->call(s.fd), began, EINTR, LIMIT);
	alarm_after(0, 0);
}

/* With a full ring no message gets in before a frame is released. */
static void send_one(void)
{
	if (now_in >= FULL)
		release_all();
	copy(2);
}

static void finish(ssize_t n, const struct call *c, enum state state)
{
	int told;
	/* what was refused while the ring was full is told */
	for (told = 0; n < 0 && errno == ENOBUFS && state >= FULL && told < 2; told++)
		n = c->call(s.fd);
	got(n, state == COPY ? 1 : 2);
}

static void end_restart(const struct call *c, enum state state)
{
	pthread_t t;
	alarm_after(LIMIT / 2, SA_RESTART);
	t = later(LIMIT, send_one);
	finish(c->call(s.fd), c, state);
	pthread_join(t, NULL);
	SAY(state == COPY || caught == 1, "the signal did not come");
	alarm_after(0, 0);
}

static void end_message(const struct call *c, enum state state)
{
	pthread_t t = later(LIMIT, send_one);
	finish(c->call(s.fd), c, state);
	pthread_join(t, NULL);
}

/* Frames that come meanwhile wake nobody and lengthen no limit. */
static volatile int firing;
static void fire(void)
{
	while (firing) {
		release_all();
		frame();
		msleep(20);
	}
}

static void end_under_fire(const struct call *c, enum state state)
{
	double began;
	pthread_t t;
	if (state == PLAIN || state == COPY)
		return;
	firing = 1;
	limit(LONG);
	t = later(0, fire);
	began = now();
	failed_after(c->call(s.fd), began, EAGAIN, LONG);
	firing = 0;
	pthread_join(t, NULL);
}

/* What has been left by cancellation or a jump is left whole: the socket goes on, frames come to a client that only looks
 * at memory, and the ring can be freed. */
static void still_works(enum state state)
{
	struct nl_mmap_req none = { 0, 0, 0, 0 };
	long end = now_ms() + 5000;
	unsigned i, seen = 0;
	char m[64];
	if (state == PLAIN) {
		copy(3);
		got(recv(s.fd, buf, sizeof buf, 0), 3);
		return;
	}
	release_all();
	while (recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) >= 0 || errno == ENOBUFS)
		;
	msleep(20);
	while (recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) >= 0 || errno == ENOBUFS)
		;
	release_all();
	copy(3);
	while (!seen) {
		SAY(now_ms() < end, "no frame comes to a client that only looks at memory");
		for (i = 0; i < s.rx.frame_nr; i++)
			seen |= status_of(frame_at(&s.rx, i)) == NL_MMAP_STATUS_COPY;
	}
	got(recv(s.fd, buf, sizeof buf, 0), 3);
	release_all();
	munmap(s.map, s.len);
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &none, sizeof none));
	CHECK_CALL(plain_send(s.fd, msg_ack(m, 9), 16, 0, 0));
	SAY(recv(s.fd, buf, sizeof buf, 0) > 0, "no ack after the ring was freed");
	s.map = mmap(NULL, s.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static const struct call *the_call;
static volatile int inside;

static void *receiver(void *arg UNUSED_ARG)
{
	inside = 1;
	the_call->call(s.fd);
	SAY(0, "returned instead of being cancelled");
	return NULL;
}

static void end_cancelled(const struct call *c, enum state state)
{
	pthread_t t;
	void *r;
	if (state == COPY)
		return;
	the_call = c;
	inside = 0;
	CHECK(pthread_create(&t, NULL, receiver, NULL) == 0, "pthread_create");
	while (!inside)
		msleep(1);
	msleep(LIMIT / 2);
	CHECK(pthread_cancel(t) == 0 && pthread_join(t, &r) == 0, "cancelling");
	SAY(r == PTHREAD_CANCELED, "not cancelled");
	still_works(state);
}

static void end_jump(const struct call *c, enum state state)
{
	if (state == COPY)
		return;
	jumps = 1;
	alarm_after(LIMIT, SA_RESTART);
	if (!sigsetjmp(jump, 1)) {
		c->call(s.fd);
		SAY(0, "returned instead of being left");
	}
	jumps = 0;
	still_works(state);
}

/* The socket lives on while a receive sleeps in it. */
static void close_and_send(void)
{
	int fd = s.fd, other;
	CHECK_CALL(close(fd));
	/* and the number is another file's meanwhile */
	CHECK((other = open("/dev/null", O_RDONLY)) == fd, "another number was free");
	msleep(10);
	copy(2);
	msleep(10);
	close(other);
}

static void end_close(const struct call *c, enum state state)
{
	pthread_t t;
	if (state >= COPY)
		return;
	t = later(LIMIT, close_and_send);
	got(c->call(s.fd), 2);
	pthread_join(t, NULL);
}

static void try_shutdown(void)
{
	SAY(shutdown(s.fd, SHUT_RDWR) < 0 && errno == EOPNOTSUPP, "shutdown: %s", strerror(errno));
}

static void end_shutdown(const struct call *c, enum state state)
{
	double began = now();
	pthread_t t;
	limit(LONG);
	t = later(LIMIT / 2, try_shutdown);
	if (state == COPY)
		got(c->call(s.fd), 1);
	else
		failed_after(c->call(s.fd), began, EAGAIN, LONG);
	pthread_join(t, NULL);
}

static const struct end {
	const char *name;
	void (*end)(const struct call *c, enum state state);
} ends[] = {
	{ "at-once", end_at_once },
	{ "time", end_time },
	{ "signal", end_signal },
	{ "limited-signal", end_limited_signal },
	{ "restart", end_restart },
	{ "message", end_message },
	{ "under-fire", end_under_fire },
	{ "cancelled", end_cancelled },
	{ "jump", end_jump },
	{ "close", end_close },
	{ "shutdown", end_shutdown },
};

/* A cell that hangs says which it is. */
static void *watchdog(void *arg UNUSED_ARG)
{
	msleep(30000);
	SAY(0, "hangs");
	return NULL;
}

int main(int argc, char **argv)
{
	size_t e, c, nr = 0;
	int state;
	pid_t children[sizeof ends / sizeof *ends * STATES];
	make(EMPTY);
	unmake(EMPTY);
	for (e = 0; e < sizeof ends / sizeof *ends; e++) {
		if (argc > 1 && strcmp(argv[1], ends[e].name))
			continue;
		for (state = 0; state < STATES; state++) {
			pthread_t t;
			sigset_t all, old;
			pid_t pid = fork();
			CHECK(pid >= 0, "fork: %s", strerror(errno));
			if (pid) {
				children[nr++] = pid;
				continue;
			}
			sigfillset(&all);
			pthread_sigmask(SIG_SETMASK, &all, &old);
			CHECK(pthread_create(&t, NULL, watchdog, NULL) == 0, "pthread_create");
			pthread_sigmask(SIG_SETMASK, &old, NULL);
			for (c = 0; c < sizeof calls / sizeof *calls; c++) {
				char name[100];
				snprintf(name, sizeof name, "%s x %s x %s", state_names[state], calls[c].name, ends[e].name);
				where = name;
				make(state);
				ends[e].end(&calls[c], state);
				unmake(state);
			}
			_exit(0);
		}
	}
	while (nr--)
		join_child(children[nr]);
	ok();
	return 0;
}
