/* Another preload that interposes some of the same calls: it counts and hands on. Its counts are
 * written at exit to the descriptor named by OTHER_PRELOAD_FD, so that the test sees it was asked. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>

static unsigned polls, sends, closes, options;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int poll(struct pollfd *p, nfds_t n, int ms)
{
	polls++;
	return NEXT(poll)(p, n, ms);
}

ssize_t sendto(int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l)
{
	sends++;
	return NEXT(sendto)(fd, b, n, f, a, l);
}

int close(int fd)
{
	closes++;
	return NEXT(close)(fd);
}

int setsockopt(int fd, int level, int name, const void *v, socklen_t l)
{
	options++;
	return NEXT(setsockopt)(fd, level, name, v, l);
}

__attribute__((destructor)) static void report(void)
{
	const char *fd = getenv("OTHER_PRELOAD_FD");
	if (fd)
		dprintf(atoi(fd), "other preload: %u polls %u sends %u closes %u options\n", polls, sends, closes,
			options);
}
