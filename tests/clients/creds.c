/* nm_pid, nm_uid, nm_gid and nm_group tell the truth for the kernel's answers, for messages of other
 * users' processes and for multicasts, VALID or COPY. */
#include "msg.h"

static char buf[8192];

static struct nl_mmap_hdr next(struct sock *s, ssize_t len)
{
	struct nl_mmap_hdr meta;
	ssize_t n = rx_take(s, buf, sizeof buf, &meta, 2000);
	CHECK(len < 0 || n == len, "a message of %zd bytes, expected %zd", n, len);
	return meta;
}

static void is(const char *what, struct nl_mmap_hdr m, unsigned pid, unsigned uid, unsigned gid, unsigned group)
{
	CHECK(m.nm_pid == pid && m.nm_uid == uid && m.nm_gid == gid && m.nm_group == group,
	      "%s: pid %u uid %u gid %u group %u, expected %u %u %u %u", what, m.nm_pid, m.nm_uid, m.nm_gid, m.nm_group,
	      pid, uid, gid, group);
}

int main(void)
{
	struct sock r = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 4096), NO_RING);
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 2, 2048));
	int group = 7, tx, go[2];
	pid_t pid;
	char c;

	CHECK_CALL(plain_send(r.fd, msg_ack(buf, 1), 16, 0, 0));
	is("an ack of the kernel", next(&r, 36), 0, 0, 0, 0);
	CHECK_CALL(plain_send(r.fd, msg_getlink(buf, 1, 0, 1), 32, 0, 0));
	is("a reply of the kernel", next(&r, -1), 0, 0, 0, 0);

	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	tx_put(&s, msg_user(buf, 100, 0), 100);
	CHECK(tx_kick_to(&s, s.port, 0) == 100, "kick to oneself: %s", strerror(errno));
	is("a kick to oneself", next(&s, 100), getpid(), 0, 0, 0);

	CHECK_CALL(pipe(go));
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		CHECK_CALL(setgid(1001));
		CHECK_CALL(setuid(1000));
		tx = plain_open(NETLINK_USERSOCK);
		CHECK_CALL(plain_send(tx, msg_user(buf, 100, 1), 100, s.port, 0));
		CHECK_CALL(plain_send(tx, msg_user(buf, 1500, 2), 1500, s.port, 0));
		/* Its own kick: nm_* words it writes itself claim nothing. */
		frame_at(&s.tx, 1)->nm_pid = 1;
		frame_at(&s.tx, 1)->nm_uid = 7;
		tx_put(&s, msg_user(buf, 100, 3), 100);
		CHECK(read(go[0], &c, 1) == 1, "the parent is gone");
		CHECK(tx_kick_to(&s, s.port, 0) == 100, "kick of the child: %s", strerror(errno));
		_exit(0);
	}
	is("a small message of another user", next(&s, 100), pid, 1000, 1001, 0);
	is("a large message of another user", next(&s, 1500), pid, 1000, 1001, 0);
	CHECK(write(go[1], "x", 1) == 1, "write");
	is("the kick of another user's process", next(&s, 100), pid, 1000, 1001, 0);
	join_child(pid);

	tx = plain_open(NETLINK_USERSOCK);
	CHECK_CALL(multicast(tx, msg_user(buf, 100, 4), 100, group));
	is("a small multicast", next(&s, 100), getpid(), 0, 0, group);
	CHECK_CALL(multicast(tx, msg_user(buf, 1500, 5), 1500, group));
	is("a large multicast", next(&s, 1500), getpid(), 0, 0, group);
	group = 32;
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	CHECK_CALL(multicast(tx, msg_user(buf, 100, 6), 100, 32));
	is("a multicast to group 32", next(&s, 100), getpid(), 0, 0, 32);
	ok();
	return 0;
}
