/* spawn.c COUNT [LIBRARY]: starts /bin/true COUNT times, with LIBRARY preloaded if one is named; `children` is their CPU time. */
#include "bench.h"
#include <spawn.h>

int main(int argc, char **argv)
{
	char preload[4096], *bare[] = { NULL }, *loaded[] = { preload, NULL }, *args[] = { "true", NULL };
	struct rusage children;
	struct meter m;
	uint64_t count;
	CHECK(argc == 2 || argc == 3, "usage: spawn COUNT [LIBRARY]");
	count = number(argv[1]);
	snprintf(preload, sizeof preload, "LD_PRELOAD=%s", argc == 3 ? argv[2] : "");
	meter_start(&m);
	for (uint64_t i = 0; i < count; i++) {
		pid_t pid;
		int st, error = posix_spawn(&pid, "/bin/true", NULL, NULL, args, argc == 3 ? loaded : bare);
		CHECK(error == 0, "posix_spawn of /bin/true: %s", strerror(error));
		CHECK(waitpid(pid, &st, 0) == pid && st == 0, "/bin/true ended with %x", st);
	}
	CALL(getrusage(RUSAGE_CHILDREN, &children));
	printf("children=%lu ", (children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1000000000ul +
	       (children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1000ul);
	meter_stop(&m, count, 0);
	return 0;
}
