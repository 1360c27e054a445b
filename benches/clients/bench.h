/* bench.h: what every measured program here shares: clocks, the result line, the count of system calls.
 *
 * A program does one piece of work in one way and prints one line of `name=value` pairs; the runner
 * (`cargo xtask bench`) takes it from there. Exit status 0: done; anything else: the reason is on stderr. */
#ifndef BENCH_H
#define BENCH_H
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

#define FAIL(...) do { \
	fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
	fprintf(stderr, __VA_ARGS__); \
	fputc('\n', stderr); \
	_exit(1); \
} while (0)
#define CHECK(cond, ...) do { if (__builtin_expect(!(cond), 0)) FAIL(__VA_ARGS__); } while (0)
#define CALL(call) do { if ((call) < 0) FAIL("%s: %s", #call, strerror(errno)); } while (0)

/* A socket that no library has made: for whoever sends to the one that is measured. */
__attribute__((unused)) static int outside_socket(int protocol)
{
	return syscall(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
}

static inline uint64_t clock_of(clockid_t which)
{
	struct timespec t;
	clock_gettime(which, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline uint64_t now(void)
{
	return clock_of(CLOCK_MONOTONIC);
}

static inline void spin(uint64_t ns)
{
	for (uint64_t end = now() + ns; now() < end;)
		;
}

/* Ahead of what else the machine does, where that is permitted; the same for every way and its counterpart. */
__attribute__((constructor)) static void go_ahead(void)
{
	setpriority(PRIO_PROCESS, 0, -15);
}

/* System calls of all threads of this process, by the kernel's own trace point. Only in a run that is
 * not timed (BENCH_COUNT=1): while anybody counts, every system call of the machine is slower.
 * Opened before the first thread is started, so that all inherit it. */
static int counter = -1;

static inline void counter_open(void)
{
	struct perf_event_attr a = { .type = PERF_TYPE_TRACEPOINT, .size = sizeof a, .disabled = 1, .inherit = 1 };
	FILE *f;
	if (!getenv("BENCH_COUNT"))
		return;
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return;
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	f = fopen("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id", "r");
	if (!f || fscanf(f, "%llu", (unsigned long long *)&a.config) != 1)
		return;
	fclose(f);
	counter = syscall(SYS_perf_event_open, &a, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

struct meter {
	uint64_t wall, cpu;
	struct rusage use;
};

static inline void meter_start(struct meter *m)
{
	if (counter >= 0)
		ioctl(counter, PERF_EVENT_IOC_ENABLE, 0);
	getrusage(RUSAGE_SELF, &m->use);
	m->cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
	m->wall = now();
}

/* Prints what was measured since meter_start. CPU is the scheduler's sum over all threads; the split
 * into user and system is getrusage's. */
static inline void meter_stop(struct meter *m, uint64_t messages, uint64_t copies)
{
	struct rusage use;
	uint64_t wall = now() - m->wall, cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - m->cpu, calls = 0;
	getrusage(RUSAGE_SELF, &use);
	printf("messages=%lu wall=%lu cpu=%lu", messages, wall, cpu);
	printf(" user=%lu copies=%lu", (use.ru_utime.tv_sec - m->use.ru_utime.tv_sec) * 1000000000ul +
	       (use.ru_utime.tv_usec - m->use.ru_utime.tv_usec) * 1000ul, copies);
	printf(" switches=%ld", use.ru_nvcsw - m->use.ru_nvcsw);
	if (counter >= 0) {
		ioctl(counter, PERF_EVENT_IOC_DISABLE, 0);
		if (read(counter, &calls, sizeof calls) == sizeof calls)
			printf(" calls=%lu", calls);
	}
	putchar('\n');
	fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* Latencies in nanoseconds; sorts them. */
static inline void latencies(uint32_t *ns, size_t n, uint64_t cpu)
{
	qsort(ns, n, sizeof *ns, by_value);
	printf("messages=%zu p50=%u p99=%u p999=%u cpu=%lu\n", n, ns[n / 2], ns[n * 99 / 100], ns[n * 999 / 1000], cpu);
	fflush(stdout);
}

/* A child that ends with its parent. */
static inline pid_t helper(void)
{
	pid_t parent = getpid(), pid = fork();
	CALL(pid);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

static inline void join_helper(pid_t pid)
{
	int st;
	CHECK(waitpid(pid, &st, 0) == pid && st == 0, "the other process ended with status %x", st);
}

/* Words in memory that both processes see. */
static inline volatile uint64_t *shared_words(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return p;
}

static inline long number(const char *s)
{
	char *end;
	long n = s ? strtol(s, &end, 10) : -1;
	CHECK(s && !*end && n >= 0, "not a number: %s", s ? s : "(nothing)");
	return n;
}
#endif
