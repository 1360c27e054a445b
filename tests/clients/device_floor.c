/* device_floor SECONDS HOGS: what the kernel's scheduler alone makes of a request beside HOGS users who keep the processors
 * busy. No daemon: a client asks a process, which asks another one, and back, as a request goes to the front, to a worker and
 * back; both ask for the turns that the daemon's threads ask for. Prints how long that took, in milliseconds. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_UID = 60000, MOST = 1 << 16 };

#define CALL(x) ((x) >= 0 ? (void)0 : (fprintf(stderr, "%s: %s\n", #x, strerror(errno)), exit(1)))

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void short_turns(void)
{
	unsigned long long attributes[6] = { 48, 0, 0, 100000, 0, 0 };
	syscall(SYS_sched_setattr, 0, attributes, 0);
}

/* A process of its own session that answers what comes on one end, having asked behind the other, if there is one. */
static void relay(int front, int behind)
{
	char byte;
	CALL(prctl(PR_SET_PDEATHSIG, SIGKILL));
	CALL(setsid());
	short_turns();
	while (recv(front, &byte, 1, 0) == 1) {
		if (behind >= 0 && (send(behind, &byte, 1, 0) != 1 || recv(behind, &byte, 1, 0) != 1))
			exit(1);
		if (send(front, &byte, 1, 0) != 1)
			exit(1);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	static double took[MOST];
	int near[2], far[2], hogs, i;
	unsigned count = 0;
	double end;
	char byte = 0;
	if (argc != 3)
		return fprintf(stderr, "usage: %s SECONDS HOGS\n", argv[0]), 2;
	hogs = atoi(argv[2]);
	CALL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, near));
	CALL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, far));
	for (i = 0; i < hogs + 2; i++) {
		pid_t pid = fork();
		CALL(pid);
		if (pid)
			continue;
		if (i == 0)
			relay(far[1], -1);
		if (i == 1)
			relay(near[1], far[0]);
		CALL(setsid());
		CALL(setuid(FIRST_UID + i));
		CALL(prctl(PR_SET_PDEATHSIG, SIGKILL));
		for (;;)
			;
	}
	CALL(setsid() >= 0 || errno == EPERM ? 0 : -1);
	end = now() + atof(argv[1]);
	while (now() < end && count < MOST) {
		double before;
		usleep(2000);
		before = now();
		if (send(near[0], &byte, 1, 0) != 1 || recv(near[0], &byte, 1, 0) != 1)
			return 1;
		took[count++] = (now() - before) * 1e3;
	}
	if (!count)
		return 1;
	qsort(took, count, sizeof *took, by_value);
	printf("%u times, p50 %.3f p90 %.3f p99 %.3f max %.3f ms\n", count, took[count / 2], took[count * 9 / 10],
	       took[count * 99 / 100], took[count - 1]);
	return 0;
}
