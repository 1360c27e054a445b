/* SO_PASSCRED and NETLINK_PKTINFO are seen by a client that asked for them, and only by it; what
 * the options read back is what the client set. Options that netlink takes and does not serve (time stamps, SO_RXQ_OVFL) tell
 * nothing, and descriptors cannot be sent. */
#include "msg.h"

#ifndef NETLINK_PKTINFO
#define NETLINK_PKTINFO 3
#endif

static struct sock s;
static int tx;
static char buf[4096];

/* Bit 1: credentials were there and true; bit 2: the group. */
static int seen(size_t room)
{
	char control[256];
	struct iovec v = { buf, sizeof buf };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room };
	struct cmsghdr *c;
	int bits = 0;
	CHECK_CALL(multicast(tx, msg_user(buf, 2000, 1), 2000, 5));
	CHECK(recvmsg(s.fd, &m, 0) == 2000, "recvmsg: %s", strerror(errno));
	set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
	advance(&s.rx);
	for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred u;
			CHECK(c->cmsg_len == CMSG_LEN(sizeof u), "credentials of %zu bytes", (size_t)c->cmsg_len);
			memcpy(&u, CMSG_DATA(c), sizeof u);
			CHECK(u.pid == getpid() && u.uid == 0 && u.gid == 0, "credentials %d %u %u", u.pid, u.uid, u.gid);
			bits |= 1;
		} else if (c->cmsg_level == SOL_NETLINK && c->cmsg_type == NETLINK_PKTINFO) {
			struct nl_pktinfo p;
			CHECK(c->cmsg_len == CMSG_LEN(sizeof p), "pktinfo of %zu bytes", (size_t)c->cmsg_len);
			memcpy(&p, CMSG_DATA(c), sizeof p);
			CHECK(p.group == 5, "pktinfo says group %u", p.group);
			bits |= 2;
		} else
			FAIL("ancillary data of level %d type %d", c->cmsg_level, c->cmsg_type);
	}
	CHECK(bits || room == 0 || m.msg_controllen == 0, "msg_controllen %zu without any", (size_t)m.msg_controllen);
	CHECK(!(m.msg_flags & MSG_CTRUNC) || room < 60, "MSG_CTRUNC with room for all");
	return bits;
}

static void want(int level, int opt, int v)
{
	int back = -1;
	socklen_t len = sizeof back;
	CHECK_CALL(setsockopt(s.fd, level, opt, &v, sizeof v));
	if (level == SOL_SOCKET) {
		CHECK_CALL(getsockopt(s.fd, level, opt, &back, &len));
		CHECK(back == v, "option %d reads back %d, not %d", opt, back, v);
	}
}

/* In either kind of socket alike. */
static void descriptors_cannot_be_sent(int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { buf, 20 };
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = s.port };
	struct msghdr m = { &to, sizeof to, &v, 1, control, sizeof control, 0 };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	msg_user(buf, 20, 1);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	CHECK(sendmsg(fd, &m, 0) < 0 && errno == EINVAL, "sending a descriptor: %s", strerror(errno));
}

int main(void)
{
	static const int idle[] = { SO_TIMESTAMP, SO_TIMESTAMPNS, 63, 64, SO_RXQ_OVFL }; /* and the new time stamps */
	size_t i;
	int group = 5, back = -1;
	socklen_t len = sizeof back;
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	tx = plain_open(NETLINK_USERSOCK);
	CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_PASSCRED, &back, &len));
	CHECK(back == 0, "SO_PASSCRED reads as set, nobody set it");
	CHECK(seen(256) == 0, "ancillary data that nobody asked for");
	for (i = 0; i < sizeof idle / sizeof *idle; i++)
		want(SOL_SOCKET, idle[i], 1);
	CHECK(seen(256) == 0, "ancillary data that netlink does not have");
	descriptors_cannot_be_sent(tx);
	descriptors_cannot_be_sent(s.fd);
	want(SOL_SOCKET, SO_PASSCRED, 1);
	CHECK(seen(256) == 1, "SO_PASSCRED alone was asked for");
	want(SOL_NETLINK, NETLINK_PKTINFO, 1);
	CHECK(seen(256) == 3, "both were asked for");
	CHECK(seen(0) == 0, "no room for any");
	want(SOL_SOCKET, SO_PASSCRED, 0);
	CHECK(seen(256) == 2, "NETLINK_PKTINFO alone was asked for");
	want(SOL_NETLINK, NETLINK_PKTINFO, 0);
	CHECK(seen(256) == 0, "both were given up");
	ok();
	return 0;
}
