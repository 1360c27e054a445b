/* waiter.h: every call that waits for one fd to turn readable, behind one signature.
 * Returns 1 readable, 0 time-out, -1 with errno. A negative time-out waits for ever. */
#ifndef WAITER_H
#define WAITER_H
#include "ring.h"
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>

static struct timespec ms_spec(int ms)
{
	return (struct timespec){ ms / 1000, (ms % 1000) * 1000000L };
}

static int by_poll(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	return poll(&p, 1, ms);
}

static int by_ppoll(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct timespec t = ms_spec(ms);
	return ppoll(&p, 1, ms < 0 ? NULL : &t, NULL);
}

static int by_select(int fd, int ms)
{
	struct timeval t = { ms / 1000, (ms % 1000) * 1000 };
	fd_set set;
	FD_ZERO(&set);
	FD_SET(fd, &set);
	return select(fd + 1, &set, NULL, NULL, ms < 0 ? NULL : &t);
}

static int by_pselect(int fd, int ms)
{
	struct timespec t = ms_spec(ms);
	fd_set set;
	FD_ZERO(&set);
	FD_SET(fd, &set);
	return pselect(fd + 1, &set, NULL, NULL, ms < 0 ? NULL : &t, NULL);
}

/* One epoll instance for the life of the process, as event loops have. */
static int the_epoll(int fd)
{
	static int ep = -1, last = -1;
	struct epoll_event e = { .events = EPOLLIN, .data = { .u64 = 0x1122334455667788 } };
	if (ep < 0)
		CHECK_CALL(ep = epoll_create1(EPOLL_CLOEXEC));
	if (last != fd)
		CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	last = fd;
	return ep;
}

static int epoll_answer(const struct epoll_event *e, int r)
{
	if (r > 0)
		CHECK(e->data.u64 == 0x1122334455667788, "epoll data is not what was registered");
	return r;
}

static int by_epoll_wait(int fd, int ms)
{
	struct epoll_event e[4];
	return epoll_answer(e, epoll_wait(the_epoll(fd), e, 4, ms));
}

static int by_epoll_pwait(int fd, int ms)
{
	struct epoll_event e[4];
	sigset_t none;
	sigemptyset(&none);
	return epoll_answer(e, epoll_pwait(the_epoll(fd), e, 4, ms, &none));
}

static int by_epoll_pwait2(int fd, int ms)
{
#if GLIBC_AT_LEAST(2, 35)
	struct epoll_event e[4];
	struct timespec t = ms_spec(ms);
	return epoll_answer(e, epoll_pwait2(the_epoll(fd), e, 4, ms < 0 ? NULL : &t, NULL));
#else
	(void)fd;
	(void)ms;
	LACKING("epoll_pwait2 in this C library");
#endif
}

/* The raw ones enter the kernel without any library symbol: what Go programs and static
 * runtimes do. `syscall` is inlined here so that not even that symbol is called. */
static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
#ifdef __x86_64__
	long ret;
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (ret < 0 && ret > -4096) {
		errno = -ret;
		return -1;
	}
	return ret;
#else
	return syscall(nr, a, b, c, d, e, f);
#endif
}

static int by_raw_ppoll(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct timespec t = ms_spec(ms);
	return raw(SYS_ppoll, (long)&p, 1, ms < 0 ? 0 : (long)&t, 0, 8, 0);
}

static int by_raw_epoll(int fd, int ms)
{
	static int ep = -1, last = -1;
	struct epoll_event e = { .events = EPOLLIN, .data = { .fd = fd } };
	if (ep < 0)
		CHECK_CALL(ep = raw(SYS_epoll_create1, EPOLL_CLOEXEC, 0, 0, 0, 0, 0));
	if (last != fd)
		CHECK_CALL(raw(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, (long)&e, 0, 0));
	last = fd;
	return raw(SYS_epoll_pwait, ep, (long)&e, 1, ms, 0, 8);
}

#ifdef SYS_poll
static int by_raw_poll(int fd, int ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	return raw(SYS_poll, (long)&p, 1, ms, 0, 0, 0);
}
#endif

struct waiter {
	const char *name;
	int (*wait)(int fd, int ms);
	int is_raw;
};

static const struct waiter waiters[] = {
	{ "poll", by_poll, 0 },
	{ "ppoll", by_ppoll, 0 },
	{ "select", by_select, 0 },
	{ "pselect", by_pselect, 0 },
	{ "epoll_wait", by_epoll_wait, 0 },
	{ "epoll_pwait", by_epoll_pwait, 0 },
	{ "epoll_pwait2", by_epoll_pwait2, 0 },
#ifdef SYS_poll
	{ "raw-poll", by_raw_poll, 1 },
#endif
	{ "raw-ppoll", by_raw_ppoll, 1 },
	{ "raw-epoll", by_raw_epoll, 1 },
};

static inline const struct waiter *find_waiter(const char *name)
{
	size_t i;
	for (i = 0; i < sizeof waiters / sizeof *waiters; i++)
		if (name && !strcmp(waiters[i].name, name))
			return &waiters[i];
	FAIL("unknown way of waiting: %s", name ? name : "(none)");
}
#endif
