/* A fork after mmap: one endpoint, two processes. argv[1]: share (a plugin child reads payloads and
 * releases frames, both receive), child-alone, parent-alone, tx (both kick), plugin. */
#include "msg.h"

static struct sock s;
static char buf[4096];

static int pipes[2][2];

static void give(int who)
{
	CHECK(write(pipes[who][1], "x", 1) == 1, "the other process is gone");
}

static void turn(int who)
{
	char c;
	CHECK(read(pipes[who][0], &c, 1) == 1, "the other process is gone");
}

/* Both processes take turns; the one position goes on from where the other stood. */
static void share(int sender)
{
	enum { ROUNDS = 200 };
	int i;
	pid_t pid = fork();
	CHECK_CALL(pid);
	for (i = 0; i < ROUNDS; i++) {
		int mine = (i % 2 == 0) == (pid != 0);
		size_t len = i % 5 == 4 ? 2000 : 100 + i;
		if (mine) {
			if (i)
				turn(pid == 0);
			CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
			CHECK(poll(&(struct pollfd){ s.fd, POLLIN, 0 }, 1, 0) == 0, "round %d: still readable", i);
			give(pid != 0);
		} else
			advance(&s.rx); /* the other one took it */
	}
	if (pid == 0)
		_exit(0);
	turn(0);
	join_child(pid);
}

static void alone(int sender)
{
	int i;
	for (i = 0; i < 300; i++) {
		size_t len = i % 5 == 4 ? 2000 : 100 + i;
		CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
		tx_put(&s, msg_user(buf, 90, i), 90);
		CHECK(tx_kick_to(&s, s.port, 0) == 90, "kick: %s", strerror(errno));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
}

/* Plugins in children: the parent receives, the child works on the payload and releases. */
static void plugin(int sender)
{
	int i;
	pid_t pid = fork();
	CHECK_CALL(pid);
	for (i = 0; i < 200; i++) {
		struct nl_mmap_hdr *h = head(&s.rx);
		if (pid == 0) {
			turn(0);
			CHECK(status_of(h) == NL_MMAP_STATUS_SKIP, "frame %u has status %u in the child", s.rx.pos,
			      status_of(h));
			check_user(payload(h), h->nm_len, i);
			set_status(h, NL_MMAP_STATUS_UNUSED);
			advance(&s.rx);
			give(1);
			continue;
		}
		CHECK_CALL(plain_send(sender, msg_user(buf, 200, i), 200, s.port, 0));
		CHECK(poll(&(struct pollfd){ s.fd, POLLIN, 0 }, 1, 2000) == 1, "message %d did not come", i);
		CHECK(ready(&s.rx), "POLLIN without a frame");
		if (status_of(h) == NL_MMAP_STATUS_COPY)
			CHECK(recv(s.fd, payload(h), 200, 0) == 200, "recv: %s", strerror(errno));
		set_status(h, NL_MMAP_STATUS_SKIP);
		advance(&s.rx);
		give(0);
		turn(1);
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "the child's release is not seen");
	}
	if (pid == 0)
		_exit(0);
	join_child(pid);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "share";
	int sender = plain_open(NETLINK_USERSOCK);
	pid_t pid;

	CHECK_CALL(pipe(pipes[0]));
	CHECK_CALL(pipe(pipes[1]));
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 2048));
	if (!strcmp(mode, "share"))
		share(sender);
	else if (!strcmp(mode, "plugin"))
		plugin(sender);
	else if (!strcmp(mode, "child-alone")) {
		CHECK_CALL(pid = fork());
		if (pid == 0) {
			alone(sender);
			_exit(0);
		}
		munmap(s.map, s.len);
		close(s.fd);
		join_child(pid);
	} else if (!strcmp(mode, "parent-alone")) {
		CHECK_CALL(pid = fork());
		if (pid == 0) {
			/* the child uses it, then leaves without a word */
			CHECK_CALL(plain_send(sender, msg_user(buf, 100, 1), 100, s.port, 0));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
			_exit(0);
		}
		join_child(pid);
		advance(&s.rx);
		alone(sender);
	} else if (!strcmp(mode, "grandchild")) {
		CHECK_CALL(pid = fork());
		if (pid == 0) {
			CHECK_CALL(pid = fork());
			if (pid == 0) {
				alone(sender);
				_exit(0);
			}
			join_child(pid);
			_exit(0);
		}
		join_child(pid);
	} else if (!strcmp(mode, "killed")) {
		/* A child that is killed in the middle of its calls leaves the endpoint usable. */
		int i, round;
		for (round = 0; round < 10; round++) {
			CHECK_CALL(pid = fork());
			if (pid == 0)
				for (i = 0;; i++) {
					struct pollfd p = { s.fd, POLLIN, 0 };
					poll(&p, 1, 0);
					tx_kick(&s);
				}
			msleep(20 + round);
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			CHECK_CALL(plain_send(sender, msg_user(buf, 100, round), 100, s.port, 0));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), round);
		}
	} else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
