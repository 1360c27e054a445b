/* A signal reaches a fork child while it makes the library's tables its own, which takes a while with many numbers. Its handler
 * polls a ring socket, as a handler may. Every child must come through. */
#include "ring.h"
#include <signal.h>

enum { NUMBERS = 600, CHILDREN = 60, LONGEST_MS = 10000 };

static int fd;
static volatile sig_atomic_t handled;

static void on_signal(int sig UNUSED_ARG)
{
	struct pollfd p = { fd, POLLIN, 0 };
	int saved = errno;

	poll(&p, 1, 0);
	handled = 1;
	errno = saved;
}

int main(void)
{
	struct sock s = ring_open(NETLINK_ROUTE, (struct nl_mmap_req)GEOM(4096, 4, 2048), NO_RING);
	struct sigaction action;
	int i, interrupted = 0;

	fd = s.fd;
	memset(&action, 0, sizeof action);
	action.sa_handler = on_signal;
	CHECK_CALL(sigaction(SIGUSR1, &action, NULL));
	for (i = 0; i < NUMBERS; i++)
		CHECK_CALL(dup(fd));
	for (i = 0; i < CHILDREN; i++) {
		long end = now_ms() + LONGEST_MS;
		pid_t pid = fork();
		int status;

		CHECK_CALL(pid);
		if (pid == 0)
			_exit(handled ? 7 : 0);
		while (waitpid(pid, &status, WNOHANG) == 0) {
			struct timespec shortly = { 0, 20000 };

			kill(pid, SIGUSR1);
			nanosleep(&shortly, NULL);
			if (now_ms() > end) {
				kill(pid, SIGKILL);
				waitpid(pid, &status, 0);
				CHECK(0, "child %d hangs", i);
			}
		}
		CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 7), "child %d: status %x",
		      i, status);
		interrupted += WEXITSTATUS(status) == 7;
	}
	CHECK(interrupted, "no signal came before fork returned");
	ok();
	return 0;
}
