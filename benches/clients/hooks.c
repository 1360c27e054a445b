/* hooks.c CALL COUNT: COUNT calls on descriptors that are no ring sockets, by the name the program is linked to and, in turn,
 * by the C library's own. Without the preload library both are the same function: what they then differ by is the error.
 *
 * read     one byte of /dev/zero
 * close    a descriptor that is not open
 * poll     a pipe, without waiting
 * send     one byte to a socket pair that is shut, refused at once
 *
 * COUNT 0 is for the instruction counter: hooks CALL 0 N makes N calls by the name alone. */
#include "bench.h"
#include <dlfcn.h>
#include <fcntl.h>

enum { PART = 500 };

static int zero, pair[2];
static struct pollfd pipe_end;
static void *call;

static __attribute__((noinline)) void calls(char kind, uint64_t n)
{
	char byte = 0;
	for (uint64_t i = 0; i < n; i++) {
		switch (kind) {
		case 'r':
			CHECK(((ssize_t (*)(int, void *, size_t))call)(zero, &byte, 1) == 1, "read: %s", strerror(errno));
			break;
		case 'c':
			CHECK(((int (*)(int))call)(-1) < 0, "close of -1 succeeds");
			break;
		case 'p':
			CHECK(((int (*)(struct pollfd *, nfds_t, int))call)(&pipe_end, 1, 0) == 0, "an empty pipe is readable");
			break;
		default:
			CHECK(((ssize_t (*)(int, const void *, size_t, int))call)(pair[0], &byte, 1, MSG_NOSIGNAL) < 0,
			      "a shut socket sends");
		}
	}
}

static uint64_t timed(char kind, void *f)
{
	uint64_t start;
	call = f;
	start = now();
	calls(kind, PART);
	return now() - start;
}

int main(int argc, char **argv)
{
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD), *named, *direct;
	uint64_t best_named = ~0ull, best_direct = ~0ull, count;
	int pipes[2];
	CHECK(argc == 3 || argc == 4, "usage: hooks read|close|poll|send COUNT");
	CHECK(libc, "the C library: %s", dlerror());
	named = dlsym(RTLD_DEFAULT, argv[1]);
	direct = dlsym(libc, argv[1]);
	CHECK(named && direct, "no function %s", argv[1]);
	CALL(zero = open("/dev/zero", O_RDONLY | O_CLOEXEC));
	CALL(pipe(pipes));
	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CALL(shutdown(pair[0], SHUT_WR));
	pipe_end = (struct pollfd){ pipes[0], POLLIN, 0 };
	count = number(argv[2]);
	if (argc == 4) {
		call = named;
		calls(argv[1][0], number(argv[3]));
		return 0;
	}
	/* Short parts in turn, the best of each: what disturbs the machine meets both or is left out. */
	for (uint64_t i = 0; i < count / PART; i++) {
		uint64_t a = timed(argv[1][0], named), b = timed(argv[1][0], direct);
		best_named = a < best_named ? a : best_named;
		best_direct = b < best_direct ? b : best_direct;
	}
	printf("messages=%lu named=%.2f direct=%.2f\n", count, (double)best_named / PART, (double)best_direct / PART);
	return 0;
}
