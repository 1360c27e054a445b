/* What a frame cannot tell is told by recvmsg, as on a socket without rings: which namespace an event came from
 * (NETLINK_LISTEN_ALL_NSID, Linux 4.2). argv[1]: when it was asked for: `before` the ring, `after` it, `raw` after it by a
 * system call that nobody sees. Events of the own namespace and of another alternate; a plain socket beside hears the same. */
#include "msg.h"
#include "waiter.h"
#include <sys/syscall.h>

#ifndef NETLINK_LISTEN_ALL_NSID
#define NETLINK_LISTEN_ALL_NSID 8
#endif
#ifndef RTM_NEWNSID
#define RTM_NEWNSID 88
#endif
#define THEIRS 7 /* the id of the other namespace in this one */

static struct sock s;
static int plain;

/* What a receive told beside the message. */
struct told {
	int has_nsid, nsid, has_group, group, has_creds, others, flags;
	size_t len;
};

static ssize_t take(int fd, char *buf, size_t size, size_t room, struct told *t)
{
	char control[512];
	struct iovec v = { buf, size };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room ? control : NULL, .msg_controllen = room };
	struct cmsghdr *c;
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
	memset(t, 0, sizeof *t);
	if (n < 0)
		return n;
	t->flags = m.msg_flags;
	t->len = m.msg_controllen;
	for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level == SOL_NETLINK && c->cmsg_type == NETLINK_LISTEN_ALL_NSID) {
			t->has_nsid = 1;
			memcpy(&t->nsid, CMSG_DATA(c), c->cmsg_len >= CMSG_LEN(4) ? 4 : 0);
		} else if (c->cmsg_level == SOL_NETLINK && c->cmsg_type == NETLINK_PKTINFO) {
			t->has_group = 1;
			memcpy(&t->group, CMSG_DATA(c), 4);
		} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
			t->has_creds = 1;
		else
			t->others++;
	}
	return n;
}

/* The other namespace: a process that does what one byte says, and answers by one. */
static int there, back;

static void other_namespace(int from, int to)
{
	char c;
	CHECK_CALL(unshare(CLONE_NEWNET));
	CHECK(write(to, "r", 1) == 1, "pipe");
	while (read(from, &c, 1) == 1) {
		c == 'u' ? lo_up() : lo_down();
		CHECK(write(to, "d", 1) == 1, "pipe");
	}
	_exit(0);
}

static pid_t begin_other(void)
{
	int down[2], up[2];
	char c, m[256];
	struct nlmsghdr *n = msg(m, RTM_NEWNSID, 0, 1, sizeof(struct rtgenmsg));
	pid_t pid;
	int fd;
	CHECK_CALL(pipe(down));
	CHECK_CALL(pipe(up));
	CHECK_CALL(pid = fork());
	if (!pid) {
		close(down[1]);
		close(up[0]);
		other_namespace(down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	there = down[1];
	back = up[0];
	CHECK(read(back, &c, 1) == 1, "the other namespace");
	attr_u32(n, 1 /* NETNSA_NSID */, THEIRS);
	attr_u32(n, 2 /* NETNSA_PID */, pid);
	fd = plain_open(NETLINK_ROUTE);
	plain_request(fd, n);
	close(fd);
	return pid;
}

static void elsewhere(int up)
{
	char c;
	CHECK(write(there, up ? "u" : "d", 1) == 1 && read(back, &c, 1) == 1, "the other namespace");
}

/* The next message of the ring socket: its frame, and what recvmsg tells if it is COPY. */
static ssize_t next(char *buf, size_t size, size_t room, struct told *t)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	struct nl_mmap_hdr *h = head(&s.rx);
	ssize_t n;
	if (!ready(&s.rx) && poll(&p, 1, 1000) <= 0)
		return -1;
	if (status_of(h) == NL_MMAP_STATUS_VALID) {
		memset(t, 0, sizeof *t);
		n = h->nm_len;
		memcpy(buf, payload(h), n);
	} else {
		CHECK(status_of(h) == NL_MMAP_STATUS_COPY, "frame of status %u", status_of(h));
		n = take(s.fd, buf, size, room, t);
		CHECK(n == (ssize_t)h->nm_len, "recvmsg of a COPY message: %zd %s", n, strerror(errno));
	}
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&s.rx);
	return n;
}

/* Both sockets tell the same of as many events, in the same order. */
static int same(size_t room)
{
	char a[8192], b[8192];
	struct told ring, ref;
	int foreign = 0;
	ssize_t n, m;
	while ((n = take(plain, a, sizeof a, room, &ref)) >= 0) {
		m = next(b, sizeof b, room, &ring);
		CHECK(m == n && !memcmp(a, b, n), "event of %zd bytes, the plain socket's has %zd", m, n);
		CHECK(ring.has_nsid == ref.has_nsid && ring.nsid == ref.nsid, "namespace %d/%d, the plain socket tells %d/%d",
		      ring.has_nsid, ring.nsid, ref.has_nsid, ref.nsid);
		CHECK(!ring.has_creds && !ring.others, "ancillary data that nobody asked for");
		if (ref.has_nsid || ref.flags & MSG_CTRUNC) {
			CHECK(ring.len == ref.len, "control data of %zu bytes, the plain socket's has %zu", ring.len, ref.len);
			CHECK(ring.flags == ref.flags, "flags %x, the plain socket's are %x", ring.flags, ref.flags);
			CHECK(ring.has_group == ref.has_group && ring.group == ref.group, "group %d, the plain socket's is %d",
			      ring.group, ref.group);
			foreign++;
		}
	}
	return foreign;
}

static void ask(int fd, int level, int option, int by_raw_call)
{
	int one = 1;
	if (by_raw_call)
		CHECK_CALL(raw(SYS_setsockopt, fd, level, option, (long)&one, sizeof one, 0));
	else
		CHECK_CALL(setsockopt(fd, level, option, &one, sizeof one));
}

int main(int argc, char **argv)
{
	const char *when = argc > 1 ? argv[1] : "after";
	static const size_t rooms[] = { 512, CMSG_SPACE(4), CMSG_LEN(4) - 2, 8, 0 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), status;
	size_t i;
	pid_t pid;

	CHECK(fd >= 0, "socket: %s", strerror(errno));
	if (!strcmp(when, "before"))
		ask(fd, SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 0);
	s = ring_attach(fd, GEOM(65536, 2, 4096), NO_RING);
	bind_groups(fd, RTMGRP_LINK);
	s.port = port_of(fd);
	if (strcmp(when, "before"))
		ask(fd, SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, !strcmp(when, "raw"));
	plain = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	bind_groups(plain, RTMGRP_LINK);
	ask(plain, SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 0);
	pid = begin_other();
	/* what the namespace's making told */
	while (same(512) > 0)
		;
	for (i = 0; i < sizeof rooms / sizeof *rooms; i++) {
		elsewhere(1);
		lo_up();
		elsewhere(0);
		lo_down();
		CHECK(same(rooms[i]) >= 2, "no event from elsewhere came with room for %zu bytes", rooms[i]);
	}
	/* the client's own wishes stand beside it */
	ask(s.fd, SOL_NETLINK, NETLINK_PKTINFO, 0);
	ask(plain, SOL_NETLINK, NETLINK_PKTINFO, 0);
	elsewhere(1);
	lo_up();
	CHECK(same(512) >= 1, "no event from elsewhere came with its group");
	close(there);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0, "the other namespace ended with %x", status);
	ok();
	return 0;
}
