/* Options that ring clients set beside their rings (clients.md 10): they work before and after
 * mmap, read back as usual, POLLOUT is on, POLLERR is collected by SO_ERROR. */
#include "msg.h"

static void set_int(int fd, int level, int opt, int v)
{
	CHECK(setsockopt(fd, level, opt, &v, sizeof v) == 0, "setsockopt(%d, %d): %s", level, opt, strerror(errno));
}

static int get_int(int fd, int level, int opt)
{
	int v = -1;
	socklen_t len = sizeof v;
	CHECK(getsockopt(fd, level, opt, &v, &len) == 0, "getsockopt(%d, %d): %s", level, opt, strerror(errno));
	return v;
}

static void options_before_and_after(int fd)
{
	set_int(fd, SOL_NETLINK, NETLINK_BROADCAST_ERROR, 1);
	set_int(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1);
	CHECK(get_int(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS) == 1, "NETLINK_NO_ENOBUFS was not kept");
	CHECK(get_int(fd, SOL_NETLINK, NETLINK_BROADCAST_ERROR) == 1, "NETLINK_BROADCAST_ERROR was not kept");
	set_int(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, 0);
	set_int(fd, SOL_SOCKET, SO_SNDBUF, 65536);
	CHECK(get_int(fd, SOL_SOCKET, SO_SNDBUF) == 131072, "SO_SNDBUF was not kept");
	set_int(fd, SOL_SOCKET, SO_RCVBUF, 65536);
	CHECK(get_int(fd, SOL_SOCKET, SO_RCVBUF) == 131072, "SO_RCVBUF reads back %d", get_int(fd, SOL_SOCKET, SO_RCVBUF));
	CHECK(get_int(fd, SOL_SOCKET, SO_DOMAIN) == AF_NETLINK, "the fd is no netlink socket any more");
	CHECK(get_int(fd, SOL_SOCKET, SO_TYPE) == SOCK_RAW, "the socket's type changed");
	CHECK(get_int(fd, SOL_SOCKET, SO_ERROR) == 0, "an error is pending");
}

static void link_event(struct sock *s)
{
	char buf[8192];
	struct nl_mmap_hdr meta;
	ssize_t n = rx_take(s, buf, sizeof buf, &meta, 3000);
	CHECK(n > 0 && ((struct nlmsghdr *)buf)->nlmsg_type == RTM_NEWLINK, "expected a link event, got type %u",
	      ((struct nlmsghdr *)buf)->nlmsg_type);
	CHECK(meta.nm_group == RTNLGRP_LINK, "link event of group %u", meta.nm_group);
	while (rx_next(s, buf, sizeof buf, NULL) >= 0)
		;
}

int main(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), fd2;
	struct sock s;
	struct pollfd p;

	CHECK_CALL(fd);
	options_before_and_after(fd);
	set_int(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK); /* before the rings */
	s = ring_attach(fd, GEOM(65536, 1, 16384), GEOM(4096, 1, 2048));
	bind_groups(fd, RTMGRP_LINK);
	options_before_and_after(fd);
	p = (struct pollfd){ fd, POLLOUT, 0 };
	CHECK(poll(&p, 1, 1000) == 1 && p.revents == POLLOUT, "an idle TX ring must poll POLLOUT, got %x", p.revents);
	p = (struct pollfd){ fd, POLLIN | POLLOUT, 0 };
	CHECK(poll(&p, 1, 1000) == 1 && p.revents == POLLOUT, "expected POLLOUT alone, got %x", p.revents);
	lo_up();
	link_event(&s);

	fd2 = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	CHECK_CALL(fd2);
	s = ring_attach(fd2, GEOM(65536, 1, 16384), NO_RING);
	bind_groups(fd2, 0);
	set_int(fd2, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK); /* after mmap */
	lo_down();
	link_event(&s);
	set_int(fd2, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, RTNLGRP_LINK);
	lo_up();
	p = (struct pollfd){ fd2, POLLIN, 0 };
	CHECK(poll(&p, 1, 100) == 0, "an event of a group that was left");
	ok();
	return 0;
}
