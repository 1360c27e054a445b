/* Every hook, called while the program is being relocated, by the resolver of a function that is chosen at run time. The C
 * library's signals, among others, work then. */
#include "every_hook.h"

static int chosen(void)
{
	return 7;
}

static int (*resolve(void))(void)
{
	every_hook();
	return chosen;
}
int choice(void) __attribute__((ifunc("resolve")));

int main(void)
{
	CHECK(choice() == 7, "the chosen function");
	return same_in_main("while the program was relocated");
}
