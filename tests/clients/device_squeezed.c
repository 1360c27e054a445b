/* device_squeezed NODE: memory of its control group comes and goes without end, so that a ring fits at one moment and not at the next.
 * Meanwhile it asks for rings: it has each, or ENOMEM, and lives. Prints how often the one and the other. */
#include "device.h"
#include <signal.h>
#include <sys/wait.h>

enum { TIMES = 60, RING = 64, MOST = 280 };

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
		mib = (mib + 7) % MOST;
		CALL(ftruncate(fd, (off_t)mib << 20));
		fallocate(fd, 0, 0, ((off_t)mib << 20) + 1);
		if (mib > MOST - 7)
			usleep(20000);
	}
}

int main(int argc, char **argv)
{
	struct nl_mmap_req req = { 1 << 20, RING, 1 << 16, RING << 4 };
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	unsigned got = 0, refused = 0, i;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	for (i = 0; i < TIMES; i++) {
		pid_t pid = fork();
		int fd;
		CALL(pid);
		if (pid == 0)
			squeeze();
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
		CALL(waitpid(pid, NULL, 0));
	}
	printf("%u %u\n", got, refused);
	return 0;
}
