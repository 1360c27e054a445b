/* Every hook, called before any library's constructor has run (preinit_array), as the runtimes of sanitizers and some
 * allocators do. Each must do what it does later. */
#include "every_hook.h"

static void early(int argc, char **argv, char **env)
{
	(void)argc, (void)argv, (void)env;
	every_hook();
}
__attribute__((section(".preinit_array"), used)) static void (*const entry)(int, char **, char **) = early;

int main(void)
{
	return same_in_main("before any constructor");
}
