/* hooks.c CALL COUNT: COUNT calls on descriptors that are no ring sockets; run with and without the library.
 *
 * null     nothing: what the loop itself costs
 * read     one byte of /dev/zero
 * close    a descriptor that is not open
 * poll     a pipe, without waiting
 * send     one byte to a socket pair whose other end is shut, refused at once */
#include "bench.h"
#include <fcntl.h>

int main(int argc, char **argv)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), pipes[2], pair[2];
	struct pollfd p;
	struct meter m;
	uint64_t count, best = ~0ull;
	char byte;
	CHECK(argc == 3, "usage: hooks null|read|close|poll|send COUNT");
	count = number(argv[2]);
	CALL(zero);
	CALL(pipe(pipes));
	CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CALL(shutdown(pair[0], SHUT_WR));
	p = (struct pollfd){ pipes[0], POLLIN, 0 };
	meter_start(&m);
	/* In ten parts, the best of which counts: the rest was disturbed. */
	for (int part = 0; part < 10; part++) {
		uint64_t start = now();
		for (uint64_t i = 0; i < count / 10; i++) {
			switch (argv[1][0]) {
			case 'r':
				CHECK(read(zero, &byte, 1) == 1, "read: %s", strerror(errno));
				break;
			case 'c':
				CHECK(close(-1) < 0, "close of -1 succeeds");
				break;
			case 'p':
				CHECK(poll(&p, 1, 0) == 0, "an empty pipe is readable");
				break;
			case 's':
				CHECK(send(pair[0], &byte, 1, MSG_NOSIGNAL) < 0, "a shut socket sends");
				break;
			default:
				__asm__ volatile("" ::: "memory");
			}
		}
		start = now() - start;
		if (start < best)
			best = start;
	}
	printf("best=%lu ", best);
	meter_stop(&m, count, 0);
	return 0;
}
