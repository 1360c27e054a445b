/* A program without netlink code of its own: it loads a library by dlopen (argv[1], with local binding,
 * and once more in a namespace of its own where the C library allows), uses it and unloads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static int call(void *lib, const char *name)
{
	int (*f)(void) = (int (*)(void))dlsym(lib, name);
	if (!f) {
		fprintf(stderr, "plugin.c: %s: %s\n", name, dlerror());
		exit(1);
	}
	return f();
}

int main(int argc, char **argv)
{
	int i, links = 0;
	for (i = 0; i < 5; i++) {
		void *lib = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
		if (!lib) {
			fprintf(stderr, "plugin.c: dlopen: %s\n", argc > 1 ? dlerror() : "no library given");
			return 1;
		}
		if (call(lib, "plugin_open") < 0)
			return 1;
		links = call(lib, "plugin_links");
		if (links < 1 || call(lib, "plugin_links") != links) {
			fprintf(stderr, "plugin.c: %d links\n", links);
			return 1;
		}
		if (call(lib, "plugin_close") != 0 || dlclose(lib) != 0) {
			fprintf(stderr, "plugin.c: closing failed\n");
			return 1;
		}
	}
	puts("ok");
	return 0;
}
