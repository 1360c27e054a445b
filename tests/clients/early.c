/* A library that uses rings outside main: in a constructor, which may run before any other library's, at exit,
 * and in a destructor, after main has returned. Loaded into a program that knows nothing of it. */
#include "msg.h"

static struct sock s;
static uint32_t seq;

static void exchange(void)
{
	char buf[4096];
	int i;
	for (i = 0; i < 10; i++) {
		size_t len = i % 2 ? 100 : 2000;
		seq++;
		CHECK(plain_send(s.fd, msg_user(buf, len, seq), len, s.port, 0) == (ssize_t)len, "send: %s", strerror(errno));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq);
		tx_put(&s, msg_user(buf, 64, seq), 64);
		CHECK(tx_kick_to(&s, s.port, 0) == 64, "kick: %s", strerror(errno));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq);
	}
}

/* A library's atexit handlers are the C library's to order: glibc runs those of a constructor after its destructor. */
static void at_an_end(void)
{
	static int ends;
	exchange();
	if (++ends < 2)
		return;
	CHECK(munmap(s.map, s.len) == 0 && close(s.fd) == 0, "tear-down: %s", strerror(errno));
	fprintf(stderr, "early: %u messages\n", seq * 2);
}

__attribute__((constructor(101))) static void before_main(void)
{
	if (!getenv("EARLY"))
		return; /* the shell and env on the way to the program */
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
	exchange();
	CHECK(atexit(at_an_end) == 0, "atexit");
}

__attribute__((destructor)) static void after_main(void)
{
	if (getenv("EARLY"))
		at_an_end();
}
