/* A ring client that starts other programs (argv[1]: vfork, posix_spawn, system, popen) keeps its
 * rings, its descriptors and its position, and the programs it starts see nothing of it. */
#include "msg.h"
#include <spawn.h>

extern char **environ;
static struct sock s;

/* The child closes everything, as shells and daemons do, in the parent's memory. */
static void by_vfork(void)
{
	static char *const argv[] = { "true", NULL };
	pid_t pid = vfork();
	if (pid == 0) {
		int i;
		dup2(s.fd, 40);
		dup2(1, s.fd);
		close(s.fd);
		for (i = 3; i < 64; i++)
			close(i);
		execvp("true", argv);
		_exit(127);
	}
	CHECK_CALL(pid);
	join_child(pid);
}

static void by_spawn(void)
{
	static char *const argv[] = { "cat", NULL };
	posix_spawn_file_actions_t fa;
	pid_t pid;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, 2, s.fd);
	posix_spawn_file_actions_addclose(&fa, s.fd);
	CHECK(posix_spawnp(&pid, "cat", &fa, NULL, argv, environ) == 0, "posix_spawnp");
	posix_spawn_file_actions_destroy(&fa);
	join_child(pid);
}

static void by_popen(void)
{
	char line[64] = "";
	FILE *f = popen("echo from a child", "r");
	CHECK(f && fgets(line, sizeof line, f), "popen: %s", strerror(errno));
	CHECK(!strcmp(line, "from a child\n"), "popen gave: %s", line);
	CHECK(pclose(f) == 0, "pclose");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "system";
	int i, sender = plain_open(NETLINK_USERSOCK);
	char buf[4096];

	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), GEOM(4096, 1, 2048));
	for (i = 0; i < 20; i++) {
		size_t len = i % 2 ? 100 : 2000;
		if (i % 3 == 0) /* also with a message waiting */
			CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		if (!strcmp(mode, "vfork"))
			by_vfork();
		else if (!strcmp(mode, "posix_spawn"))
			by_spawn();
		else if (!strcmp(mode, "popen"))
			by_popen();
		else
			CHECK(system("true && test ! -e /proc/self/fd/77") == 0, "system");
		if (i % 3)
			CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
		CHECK(port_of(s.fd) == s.port, "the descriptor is another one now");
	}
	ok();
	return 0;
}
