/* device_squeezed NODE: memory of its control group comes and goes without end, so that a ring fits at one moment and not at the next.
 * Meanwhile it asks for rings: it has each, or ENOMEM, and lives. Prints how often the one and the other. */
#include "device.h"
#include <signal.h>
#include <sys/wait.h>

enum { TIMES = 18, RING = 64, MOST = 280 };

/* Shared with the squeezer: whether it stays where it has most, and whether it is there. */
static volatile int *stays, *there;

/* Takes more and more, nearly to the limit, and then again. Never returns; may be the one that is killed for it. */
static void squeeze(void)
{
	FILE *f = fopen("/proc/self/oom_score_adj", "w");
	int fd = memfd_create("squeeze", MFD_CLOEXEC);
	unsigned mib = 0;
	CHECK(f && fd >= 0, "squeeze: %s", strerror(errno));
	fputs("1000", f);
	fclose(f);
	for (;;) {
		mib = (mib + 35) % MOST;
		CALL(ftruncate(fd, (off_t)mib << 20));
		fallocate(fd, 0, 0, ((off_t)mib << 20) + 1);
		if (mib < MOST - 35)
			continue;
		*there = 1;
		while (*stays)
			usleep(1000);
		usleep(5000);
	}
}

int main(int argc, char **argv)
{
	struct nl_mmap_req req = { 1 << 20, RING, 1 << 16, RING << 4 };
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	unsigned got = 0, refused = 0, i;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	stays = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(stays != MAP_FAILED, "mmap: %s", strerror(errno));
	there = stays + 1;
	for (i = 0; i < TIMES; i++) {
		pid_t pid;
		int fd;
		*there = 0;
		*stays = i % 3 == 0;
		pid = fork();
		CALL(pid);
		if (pid == 0)
			squeeze();
		/* A third of the times when there is least, a third at any moment, a third beside nobody. */
		if (i % 3 == 2)
			CALL(kill(pid, SIGKILL));
		while (*stays && !*there && waitpid(pid, NULL, WNOHANG) == 0)
			usleep(1000);
		usleep(1000 * (i % 40));
		CALL(fd = open(argv[1], O_RDWR | O_CLOEXEC));
		CALL(ioctl(fd, NLMMAP_SOCKET, &s));
		if (ioctl(fd, NLMMAP_RX_RING, &req) == 0)
			got++;
		else if (errno == ENOMEM)
			refused++;
		else
			DIE("a ring: %s", strerror(errno));
		close(fd);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	printf("%u %u\n", got, refused);
	return 0;
}
