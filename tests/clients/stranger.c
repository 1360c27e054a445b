/* Another process writes to a socket of a kernel family, for the first time, between two requests: its message comes before
 * the acknowledgement of the second, with its own credentials, though what a request waits for is its acknowledgement alone. */
#include "msg.h"

enum { UID = 4321, GID = 8765 };
static char buf[4096];

/* A request through the TX ring, whose answer must be there when the kick returns. */
static void ask(struct sock *s, uint32_t seq)
{
	tx_put(s, msg_ack(buf, seq), 16);
	CHECK(tx_kick(s) == 16, "kick: %s", strerror(errno));
}

static void answered(struct sock *s, uint32_t seq)
{
	struct nl_mmap_hdr h;
	ssize_t n = rx_next(s, buf, sizeof buf, &h);
	check_error(buf, n, seq, 0);
	CHECK(h.nm_pid == 0 && h.nm_uid == 0 && h.nm_gid == 0 && h.nm_group == 0,
	      "the kernel's message says pid %u uid %u gid %u group %u", h.nm_pid, h.nm_uid, h.nm_gid, h.nm_group);
}

/* In a process of its own, as somebody else; the right to send stays with the socket. */
static pid_t write_as_stranger(uint32_t port, uint32_t seq)
{
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_ROUTE);
		CHECK_CALL(setregid(GID, -1));
		CHECK_CALL(setreuid(UID, -1));
		msg_ack(buf, seq);
		CHECK(plain_send(fd, buf, 16, port, 0) == 16, "send to the ring: %s", strerror(errno));
		_exit(0);
	}
	join_child(pid);
	return pid;
}

int main(void)
{
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 2048), GEOM(16384, 1, 2048));
	for (uint32_t seq = 1; seq < 200; seq += 2) {
		struct nl_mmap_hdr h;
		pid_t pid;
		/* Often enough that whatever watches the socket leaves it to its sender. */
		ask(&s, seq);
		answered(&s, seq);
		if (seq % 20 != 1)
			continue;
		/* The same sequence number as the request that follows. */
		pid = write_as_stranger(s.port, seq + 1);
		ask(&s, seq + 1);
		CHECK(rx_next(&s, buf, sizeof buf, &h) == 16, "the stranger's message is not there");
		CHECK((pid_t)h.nm_pid == pid && h.nm_uid == UID && h.nm_gid == GID && h.nm_group == 0,
		      "its frame says pid %u uid %u gid %u group %u", h.nm_pid, h.nm_uid, h.nm_gid, h.nm_group);
		answered(&s, seq + 1);
	}
	ok();
	return 0;
}
