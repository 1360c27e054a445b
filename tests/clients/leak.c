/* Bytes behind nm_len never hold another socket's or process's data (complaint 7): secrets pass
 * through rings and plain sockets beside ours, in this process and a child; none shows up here. */
#include "msg.h"

static const char secret[] = "SECRET-OF-SOMEBODY-ELSE";

static void *spread(void *buf, size_t len, uint32_t seq)
{
	size_t i;
	msg_user(buf, len, seq);
	for (i = 64; i + sizeof secret <= len; i += sizeof secret)
		memcpy((char *)buf + i, secret, sizeof secret);
	return buf;
}

static void clean(const struct sock *s)
{
	CHECK(!memmem(s->map, s->len, secret, 12), "the secret is in a mapping it was never sent to");
}

int main(void)
{
	static const size_t sizes[] = { 3000, 200, 9000, 700, 60000 };
	static char buf[65536];
	struct sock mine = ring_open(NETLINK_USERSOCK, GEOM(16384, 2, 4096), GEOM(4096, 1, 4096)), other;
	struct sock dump = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), NO_RING);
	int tx = plain_open(NETLINK_USERSOCK), plain = plain_open(NETLINK_USERSOCK), round, big = 1 << 20;
	pid_t pid;

	CHECK_CALL(setsockopt(tx, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big));
	for (round = 0; round < 40; round++) {
		size_t i, done = 0;
		other = ring_open(NETLINK_USERSOCK, GEOM(16384, 2, 4096), GEOM(16384, 1, 16384));
		for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
			size_t n = sizes[i];
			CHECK_CALL(plain_send(tx, spread(buf, n, i), n, other.port, 0));
			rx_take(&other, buf, sizeof buf, NULL, 1000);
			CHECK_CALL(plain_send(tx, spread(buf, n, i), n, port_of(plain), 0));
			CHECK(recv(plain, buf, sizeof buf, 0) == (ssize_t)n, "recv");
			/* ours, small: what lies behind it in the frame is ours or zero */
			memset(buf, 0, sizeof buf);
			CHECK_CALL(plain_send(tx, msg_user(buf, 40 + i, i), 40 + i, mine.port, 0));
			rx_take(&mine, buf, sizeof buf, NULL, 1000);
			clean(&mine);
		}
		tx_put(&other, spread(buf, 9000, 1), 9000);
		CHECK(tx_kick_to(&other, port_of(plain), 0) == 9000, "kick: %s", strerror(errno));
		CHECK(recv(plain, buf, sizeof buf, 0) == 9000, "recv");
		CHECK_CALL(plain_send(dump.fd, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32, 0, 0));
		while (!done)
			done = has_done(buf, rx_take(&dump, buf, sizeof buf, NULL, 1000));
		clean(&mine);
		clean(&dump);
		if (round % 2)
			munmap(other.map, other.len);
		close(other.fd);
		if (round % 2 == 0)
			munmap(other.map, other.len);
	}
	/* and across a fork: the child's own endpoint */
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		struct sock own = ring_open(NETLINK_USERSOCK, GEOM(16384, 2, 4096), NO_RING);
		CHECK_CALL(plain_send(tx, spread(buf, 3000, 1), 3000, own.port, 0));
		rx_take(&own, buf, sizeof buf, NULL, 1000);
		_exit(0);
	}
	join_child(pid);
	CHECK_CALL(plain_send(tx, msg_user(buf, 100, 1), 100, mine.port, 0));
	rx_take(&mine, buf, sizeof buf, NULL, 1000);
	clean(&mine);
	ok();
	return 0;
}
