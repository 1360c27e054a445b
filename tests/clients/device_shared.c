/* device_shared NODE: two processes read one open file. The second waits for the first in the kernel (a ring file is a
 * regular file: its position has a lock), where no signal reaches it. Killed, it has to be gone soon all the same, and the
 * first still gets its message. */
#include "device.h"
#include <signal.h>
#include <sys/wait.h>

/* A blocking reader, as programs are: it tries again after EINTR. */
static pid_t reader(int fd)
{
	pid_t pid = fork();
	if (pid == 0) {
		char buf[8192];
		ssize_t n;
		while ((n = read(fd, buf, sizeof buf)) < 0 && errno == EINTR)
			;
		_exit(n == NLMSG_LENGTH(sizeof(struct nlmsgerr)) ? 0 : 1);
	}
	CALL(pid);
	usleep(200000);
	return pid;
}

int main(int argc, char **argv)
{
	struct device d;
	pid_t first, second;
	double before;
	char req[64];
	int status, i, wait_most = 30;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	device_open(&d, argv[1], NETLINK_ROUTE);
	first = reader(d.fd);
	second = reader(d.fd);
	CALL(kill(second, SIGKILL));
	before = now();
	while (waitpid(second, &status, WNOHANG) == 0) {
		CHECK(now() - before < wait_most, "a killed reader is there after %d s", wait_most);
		usleep(10000);
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the second reader: status %#x", status);
	CHECK(waitpid(first, &status, WNOHANG) == 0, "the first reader ended: status %#x", status);
	/* An ioctl and pwrite never wait behind a read. */
	request(req, NLMSG_NOOP, NLM_F_ACK, 7, 0);
	before = now();
	CALL(pwrite(d.fd, req, NLMSG_LENGTH(0), 0));
	CHECK(now() - before < 4, "a pwrite waited");
	for (i = 0; waitpid(first, &status, WNOHANG) == 0; i++) {
		CHECK(i < 3000, "the first reader has got nothing");
		usleep(10000);
	}
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the first reader: status %#x", status);
	puts("both gone");
	return 0;
}
