/* The whole life of a small client, built and run in every way programs come: against musl, fortified,
 * with 64-bit file offsets, under sanitizers, valgrind and other preloads. Uses each receiving and
 * waiting call once by the name its build gives it. */
#include "msg.h"
#include <sys/epoll.h>
#include <sys/select.h>

static struct sock s;
static volatile size_t room = 16384; /* unknown to the compiler: fortified calls keep their checks */

static int wait_by(int i)
{
	struct pollfd p = { s.fd, POLLIN, 0 };
	struct timespec t = { 2, 0 };
	struct timeval v = { 2, 0 };
	fd_set set;
	struct epoll_event e = { .events = EPOLLIN };
	int r, ep;
	volatile nfds_t one = 1;
	switch (i % 5) {
	case 0:
		return poll(&p, one, 2000);
	case 1:
		return ppoll(&p, one, &t, NULL);
	case 2:
		FD_ZERO(&set);
		FD_SET(s.fd, &set);
		return select(s.fd + 1, &set, NULL, NULL, &v);
	case 3:
		FD_ZERO(&set);
		FD_SET(s.fd, &set);
		return pselect(s.fd + 1, &set, NULL, NULL, &t, NULL);
	default:
		CHECK_CALL(ep = epoll_create1(0));
		CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, s.fd, &e));
		r = epoll_wait(ep, &e, 1, 2000);
		close(ep);
		return r;
	}
}

static ssize_t receive_by(int i, char *buf)
{
	struct sockaddr_nl a;
	socklen_t len = sizeof a;
	struct iovec v = { buf, room };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	struct mmsghdr mm = { .msg_hdr = m };
	switch (i % 6) {
	case 0:
		return recv(s.fd, buf, room, 0);
	case 1:
		return recvfrom(s.fd, buf, room, 0, (struct sockaddr *)&a, &len);
	case 2:
		return recvmsg(s.fd, &m, 0);
	case 3:
		return read(s.fd, buf, room);
	case 4:
		return readv(s.fd, &v, 1);
	default:
		return recvmmsg(s.fd, &mm, 1, 0, NULL) == 1 ? (ssize_t)mm.msg_len : -1;
	}
}

int main(void)
{
	char *buf = malloc(16384);
	struct nlmsghdr *n;
	int i, done = 0, links = 0;
	unsigned valid = 0, copied = 0;
	ssize_t len;

	CHECK(buf, "out of memory");
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 2, 2048));
	tx_put(&s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(&s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		len = rx_take(&s, buf, 16384, NULL, 3000);
		for (n = (struct nlmsghdr *)buf; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			links += n->nlmsg_type == RTM_NEWLINK;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	CHECK(links >= 1, "a dump without lo");
	CHECK(munmap(s.map, s.len) == 0 && close(s.fd) == 0, "tear-down: %s", strerror(errno));

	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
	for (i = 0; i < 60; i++) {
		size_t want = i % 2 ? 2000 : 200;
		struct nl_mmap_hdr *h = head(&s.rx);
		if (i % 4 == 0) {
			want = 200;
			tx_put(&s, msg_user(buf, want, i), want);
			CHECK(tx_kick_to(&s, s.port, 0) == 200, "kick: %s", strerror(errno));
		} else
			CHECK(plain_send(s.fd, msg_user(buf, want, i), want, s.port, 0) == (ssize_t)want, "send: %s",
			      strerror(errno));
		CHECK(wait_by(i) == 1, "waiting by way %d: %s", i % 5, strerror(errno));
		if (status_of(h) == NL_MMAP_STATUS_VALID) {
			check_user(payload(h), h->nm_len, i);
			valid++;
		} else {
			CHECK(status_of(h) == NL_MMAP_STATUS_COPY, "way %d: status %u", i % 5, status_of(h));
			len = receive_by(i / 2, buf);
			CHECK(len == (ssize_t)want, "receiving by way %d: %zd %s", i / 2 % 6, len, strerror(errno));
			check_user(buf, len, i);
			copied++;
		}
		set_status(h, NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
		CHECK(poll(&(struct pollfd){ s.fd, POLLIN, 0 }, 1, 0) == 0, "released, but still readable");
	}
	CHECK(copied >= 30 && valid + copied == 60, "%u valid, %u copied", valid, copied);
	CHECK(munmap(s.map, s.len) == 0 && close(s.fd) == 0, "tear-down: %s", strerror(errno));
	free(buf);
	ok();
	return 0;
}
