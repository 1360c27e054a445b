/* Calls that succeed leave errno as it was; calls that fail set the kernel's value, and no other. */
#include "msg.h"
#include <sys/epoll.h>
#include <sys/select.h>

#define KEEPS(call) do { \
	errno = 4242; \
	CHECK((long)(call) >= 0, "%s: %s", #call, strerror(errno)); \
	CHECK(errno == 4242, "%s succeeded and set errno to %d (%s)", #call, errno, strerror(errno)); \
} while (0)
#define FAILS(call, e) do { \
	errno = 4242; \
	CHECK((long)(call) == -1, "%s did not fail", #call); \
	CHECK(errno == (e), "%s: %s, expected %s", #call, strerror(errno), #e); \
} while (0)

int main(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK), sender = plain_open(NETLINK_USERSOCK), ep, v, i, d;
	struct nl_mmap_req rx = GEOM(4096, 4, 1024), bad = GEOM(4096, 4, 1024);
	char buf[4096], *map;
	struct pollfd p = { fd, POLLIN, 0 };
	struct epoll_event e = { .events = EPOLLIN };
	struct timeval now = { 0, 0 };
	socklen_t len = sizeof v;
	struct sockaddr_nl us = { .nl_family = AF_NETLINK }, nobody = { .nl_family = AF_NETLINK, .nl_pid = 0x7ffffff0 };
	struct iovec empty = { buf, 0 }, some = { buf, 64 };
	struct mmsghdr two[2] = { { { .msg_iov = &some, .msg_iovlen = 1 }, 0 }, { { .msg_iov = &some, .msg_iovlen = 1 }, 0 } };
	struct msghdr nothing = { .msg_iov = &empty, .msg_iovlen = 1 };
	struct sock s;
	fd_set set;

	set_ring(fd, NETLINK_RX_RING, rx); /* refused on a kernel without rings */
	FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &rx, sizeof rx), EBUSY);
	bad.nm_frame_nr++;
	FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &bad, sizeof bad), EINVAL);
	FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &rx, sizeof rx - 1), EINVAL);
	FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, (void *)8, sizeof rx), EFAULT);
	FAILS(setsockopt(-1, SOL_NETLINK, NETLINK_TX_RING, &rx, sizeof rx), EBADF);
	FAILS(setsockopt(0, SOL_NETLINK, NETLINK_TX_RING, &rx, sizeof rx), ENOTSOCK);
	KEEPS(setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &rx, sizeof rx));
	FAILS(getsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &v, &len), ENOPROTOOPT);
	FAILS(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
	FAILS(mmap(NULL, 32768, PROT_READ, MAP_SHARED, fd, 4096), EINVAL);
	errno = 4242;
	map = mmap(NULL, 32768, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED && errno == 4242, "mmap: errno %d", errno);
	bind_groups(fd, 0);
	s = (struct sock){ .fd = fd, .port = port_of(fd), .map = map, .len = 32768, .rx = ring_at(map, rx),
			   .tx = ring_at(map + 16384, rx) };
	KEEPS(ep = epoll_create1(0));
	KEEPS(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	for (i = 0; i < 6; i++) {
		size_t n = i % 2 ? 100 : 2000;
		KEEPS(poll(&p, 1, 0));
		KEEPS(epoll_wait(ep, &e, 1, 0));
		FD_ZERO(&set);
		FD_SET(fd, &set);
		KEEPS(select(fd + 1, &set, NULL, NULL, &now));
		KEEPS(plain_send(sender, msg_user(buf, n, i), n, s.port, 0));
		KEEPS(poll(&p, 1, 1000));
		KEEPS(epoll_wait(ep, &e, 1, 1000));
		KEEPS(rx_next(&s, buf, sizeof buf, NULL));
		KEEPS(getsockopt(fd, SOL_SOCKET, SO_ERROR, &v, &len));
		FAILS(recv(fd, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
		tx_put(&s, msg_user(buf, 64, i), 64);
		KEEPS(tx_kick_to(&s, s.port, 0));
		KEEPS(rx_next(&s, buf, sizeof buf, NULL));
		tx_put(&s, msg_user(buf, 64, i), 64);
		FAILS(tx_kick_to(&s, 0x7ffffff0, 0), ECONNREFUSED);
		KEEPS(tx_kick(&s));
		KEEPS(d = dup(fd));
		KEEPS(close(d));
		FAILS(close(d), EBADF);
	}
	FAILS(recv(fd, (void *)8, 100, MSG_DONTWAIT), EAGAIN);
	KEEPS(plain_send(sender, msg_user(buf, 2000, 1), 2000, s.port, 0));
	FAILS(recv(fd, (void *)8, 2000, MSG_DONTWAIT), EFAULT);
	/* What kernels from 5.17 on refuse and 4.5 did not; one of two that does not go out is the next call's to tell. */
	KEEPS(send(fd, buf, 0, 0));
	KEEPS(sendto(fd, buf, 0, 0, (struct sockaddr *)&us, sizeof us));
	KEEPS(sendmsg(fd, &nothing, 0));
	us.nl_pid = s.port;
	two[0].msg_hdr.msg_name = &us;
	two[1].msg_hdr.msg_name = &nobody;
	two[0].msg_hdr.msg_namelen = two[1].msg_hdr.msg_namelen = sizeof us;
	msg_user(buf, 64, 1);
	KEEPS(i = sendmmsg(fd, two, 2, 0));
	CHECK(i == 1, "%d of two were sent", i);
	KEEPS(munmap(map, 32768));
	KEEPS(close(fd));
	ok();
	return 0;
}
