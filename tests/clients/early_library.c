/* A library behind the preload in the loader's list: its resolver runs before the preload library itself has been relocated, when a
 * hook can rely on nothing but its own code. Loaded into a program that knows nothing of it. */
#include "every_hook.h"

static int chosen(void)
{
	return 7;
}

static int (*resolve(void))(void)
{
	static const struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct sigaction old;
	char *at;
	int d;

	MUST((d = dup(2)) > 2 && fcntl(d, F_GETFD) == 0 && write(d, "", 0) == 0 && close(d) == 0);
	MUST((at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED);
	MUST((at = mremap(at, 4096, 8192, MREMAP_MAYMOVE)) != MAP_FAILED && munmap(at, 8192) == 0);
	MUST(poll(NULL, 0, 0) == 0);
	MUST(sigaction(SIGUSR1, &ignore, &old) == 0 && old.sa_handler == SIG_DFL);
	MUST(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	return chosen;
}
int choice(void) __attribute__((ifunc("resolve")));

__attribute__((destructor)) static void after_main(void)
{
	if (getenv("EARLY"))
		fprintf(stderr, "early library: %s, %d calls, %d\n", what[0] ? what : "ok", calls, choice());
}
