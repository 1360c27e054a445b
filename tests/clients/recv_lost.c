/* A client that asks 13 times and never reads, with a ring of 8 frames; then it ends by argv[1]: `close`, `return`, `exit`,
 * `_exit`, `exec`, `child` (its forked child by exit, itself by an uncaught way that nobody sees), `full-pipe` (its standard error
 * is a pipe that is full), `flood` (multicasts beyond the socket's receive buffer, then return), `lose-flood` (first as many as the
 * ring loses). */
#include "msg.h"
#include <sys/syscall.h>

static void fill_stderr(void)
{
	static char page[4096];
	int p[2];
	CHECK_CALL(pipe(p));
	CHECK_CALL(fcntl(p[1], F_SETFL, O_NONBLOCK));
	while (write(p[1], page, sizeof page) > 0)
		;
	CHECK_CALL(fcntl(p[1], F_SETFL, 0));
	CHECK_CALL(dup2(p[1], 2));
}

static void flood(struct sock *s, int before)
{
	int tx = plain_open(NETLINK_USERSOCK), group = 3, small = 4096, i;
	struct pollfd p;
	char buf[2048];
	*s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), NO_RING);
	CHECK_CALL(setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
	CHECK_CALL(setsockopt(s->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	p = (struct pollfd){ s->fd, POLLIN, 0 };
	for (i = 0; i < before; i++) {
		CHECK_CALL(multicast(tx, msg_user(buf, 500, i), 500, group));
		CHECK_CALL(poll(&p, 1, 1000));
	}
	/* nobody pumps meanwhile: the backing thread is as slow as everybody else */
	for (i = 0; i < 5000; i++)
		CHECK_CALL(multicast(tx, msg_user(buf, 500, i), 500, group));
	CHECK_CALL(poll(&p, 1, 1000));
	close(tx);
}

int main(int argc, char **argv)
{
	const char *end = argc > 1 ? argv[1] : "return";
	struct sock s;
	char m[64];
	int i;
	if (!strcmp(end, "full-pipe"))
		fill_stderr();
	if (!strcmp(end, "flood") || !strcmp(end, "lose-flood")) {
		flood(&s, *end == 'l' ? 12 : 0);
		return 0;
	}
	s = ring_open(NETLINK_ROUTE, GEOM(4096, 2, 1024), NO_RING);
	for (i = 0; i < 13; i++)
		CHECK_CALL(plain_send(s.fd, msg_ack(m, i), 16, 0, 0));
	for (i = 0; i < 8; i++)
		CHECK(status_of(frame_at(&s.rx, i)) == NL_MMAP_STATUS_VALID, "frame %d is not VALID", i);
	if (!strcmp(end, "close")) {
		munmap(s.map, s.len);
		close(s.fd);
	} else if (!strcmp(end, "exit"))
		exit(0);
	else if (!strcmp(end, "_exit"))
		_exit(0);
	else if (!strcmp(end, "exec"))
		execl("/bin/true", "true", NULL);
	else if (!strcmp(end, "child")) {
		pid_t pid = fork();
		if (!pid)
			exit(0);
		join_child(pid);
		syscall(SYS_exit_group, 0);
	}
	return 0;
}
