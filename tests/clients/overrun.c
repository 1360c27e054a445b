/* A reader that stalls: multicasts overrun it, it is told once by ENOBUFS (POLLERR, SO_ERROR),
 * what did arrive is in order, and it recovers. With NETLINK_NO_ENOBUFS (argv[1] "no-enobufs") it is
 * not told, but recovers as well. */
#include "msg.h"

/* As rx_next; an overrun may be told by the recv of a COPY message as well, once, and the message is
 * still there for the next. */
static ssize_t next_or_error(struct sock *s, void *buf, size_t size, struct nl_mmap_hdr *meta, int *errors)
{
	struct nl_mmap_hdr *h = head(&s->rx);
	ssize_t n;
	if (status_of(h) != NL_MMAP_STATUS_COPY)
		return rx_next(s, buf, size, meta);
	*meta = *h;
	n = recv(s->fd, buf, size, MSG_DONTWAIT);
	if (n < 0 && errno == ENOBUFS) {
		++*errors;
		n = recv(s->fd, buf, size, MSG_DONTWAIT);
	}
	CHECK(n == (ssize_t)meta->nm_len, "COPY of %u bytes, recv gave %zd: %s", meta->nm_len, n, strerror(errno));
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&s->rx);
	return n;
}

int main(int argc, char **argv)
{
	int quiet = argc > 1 && !strcmp(argv[1], "no-enobufs"), on = 1, tx, err = 0, round;
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 8, 2048), NO_RING);
	int group = 3, small = 32768;
	char buf[2048];
	uint32_t sent = 0, last = 0, have = 0, lost;

	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	if (quiet)
		CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on));
	tx = plain_open(NETLINK_USERSOCK);
	for (round = 0; round < 5; round++) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		socklen_t len = sizeof err;
		int i, errors = 0;

		/* Far more than rings, receive buffer and any queue beside them may hold. */
		for (i = 0; i < 40000; i++)
			CHECK_CALL(multicast(tx, msg_user(buf, 1500, ++sent), 1500, group));
		CHECK(poll(&p, 1, 2000) == 1, "frames wait, poll is silent");
		if (quiet)
			CHECK(!(p.revents & POLLERR), "POLLERR in spite of NETLINK_NO_ENOBUFS");
		else
			CHECK(p.revents & POLLERR, "an overrun without POLLERR: %x", p.revents);
		CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &err, &len));
		CHECK(err == (quiet ? 0 : ENOBUFS), "SO_ERROR says %d", err);
		/* Cleared by reading. What the kernel itself lost and what found the ring full may be told apart. */
		for (i = 0; i < 3 && err; i++)
			CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &err, &len));
		CHECK(err == 0, "SO_ERROR is not cleared by reading it, says %d", err);

		lost = sent - last;
		for (;;) {
			struct nl_mmap_hdr meta;
			ssize_t n = next_or_error(&s, buf, sizeof buf, &meta, &errors);
			uint32_t seq = ((struct nlmsghdr *)buf)->nlmsg_seq;
			p = (struct pollfd){ s.fd, POLLIN, 0 };
			if (n < 0) {
				CHECK_CALL(poll(&p, 1, 100));
				if (p.revents & POLLERR) {
					CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &err, &len));
					CHECK(!quiet && err == ENOBUFS, "an error of %d while draining", err);
					CHECK(++errors < 4, "ENOBUFS again and again for one overrun");
				} else if (!(p.revents & POLLIN))
					break;
				continue;
			}
			check_user(buf, n, seq);
			CHECK(seq > last && seq <= sent, "message %u after %u", seq, last);
			CHECK(meta.nm_group == (unsigned)group, "nm_group %u", meta.nm_group);
			last = seq;
			have++;
			lost--;
		}
		CHECK(lost > 0, "nothing was lost: the overrun did not happen");
		CHECK(have > 0, "nothing arrived");

		/* Recovered: nothing is lost while the reader keeps up. */
		for (i = 0; i < 100; i++) {
			CHECK_CALL(multicast(tx, msg_user(buf, 1500, ++sent), 1500, group));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), sent);
		}
		last = sent;
	}
	ok();
	return 0;
}
