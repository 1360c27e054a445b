/* Reads the head frame right after the send, without poll, and gives up unless it is VALID
 * (clients.md 1): acks, errors and dump parts, which the kernel built in the ring. argv[1]: sendto, send, sendmsg, sendmmsg, write, kick, kick-sendmsg, kick-write. */
#include "msg.h"

static struct sock s;

static void send_by(const char *how, struct nlmsghdr *n)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	struct iovec v = { n, n->nlmsg_len };
	struct msghdr m = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1 };
	ssize_t r, want = n->nlmsg_len;
	errno = 0;
	if (!strcmp(how, "sendto"))
		r = sendto(s.fd, n, n->nlmsg_len, 0, (struct sockaddr *)&a, sizeof a);
	else if (!strcmp(how, "send"))
		r = send(s.fd, n, n->nlmsg_len, 0);
	else if (!strcmp(how, "sendmsg"))
		r = sendmsg(s.fd, &m, 0);
	else if (!strcmp(how, "sendmmsg")) {
		struct mmsghdr mm = { .msg_hdr = m };
		CHECK(sendmmsg(s.fd, &mm, 1, 0) == 1, "sendmmsg: %s", strerror(errno));
		r = mm.msg_len;
	} else if (!strcmp(how, "write"))
		r = write(s.fd, n, n->nlmsg_len);
	else {
		tx_put(&s, n, n->nlmsg_len);
		if (!strcmp(how, "kick"))
			r = sendto(s.fd, NULL, 0, 0, (struct sockaddr *)&a, sizeof a);
		else if (!strcmp(how, "kick-send"))
			r = send(s.fd, NULL, 0, 0);
		else if (!strcmp(how, "kick-sendmsg")) {
			v = (struct iovec){ NULL, 0 };
			r = sendmsg(s.fd, &m, 0);
		} else if (!strcmp(how, "kick-write"))
			r = write(s.fd, NULL, 0);
		else
			FAIL("unknown way of sending: %s", how);
	}
	CHECK(r == want, "%s returned %zd (%s), expected %zd", how, r, strerror(errno), want);
	CHECK(errno == 0, "%s succeeded and changed errno to %d", how, errno);
}

/* Returns whether the frame also ends a dump. */
static int take_valid(uint32_t seq, int type, const char *how)
{
	int done;
	struct nl_mmap_hdr *h = head(&s.rx);
	struct nlmsghdr *n = (struct nlmsghdr *)payload(h);
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "after %s the head frame has status %u, not VALID", how,
	      status_of(h));
	CHECK(n->nlmsg_type == type && n->nlmsg_seq == seq, "%s: head frame holds type %u seq %u", how,
	      n->nlmsg_type, n->nlmsg_seq);
	done = has_done(n, h->nm_len);
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&s.rx);
	return done;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "sendto";
	char buf[256], rest[8192];
	uint32_t i;
	int done;

	s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 2, 2048));
	for (i = 1; i <= 200; i++) {
		send_by(how, msg_ack(buf, i));
		take_valid(i, NLMSG_ERROR, how);
		/* The kernel built single replies outside the ring: COPY, but there at once as well. Default
		 * mode owes the client VALID: two daemons took nothing else. */
		send_by(how, msg_getlink(buf, 1, 0, i));
		CHECK(strict() ? ready(&s.rx) : status_of(head(&s.rx)) == NL_MMAP_STATUS_VALID,
		      "after %s the reply's frame has status %u", how, status_of(head(&s.rx)));
		rx_next(&s, rest, sizeof rest, NULL);
		CHECK(((struct nlmsghdr *)rest)->nlmsg_type == RTM_NEWLINK && ((struct nlmsghdr *)rest)->nlmsg_seq == i,
		      "%s: not the reply", how);
		send_by(how, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, i));
		done = take_valid(i, RTM_NEWLINK, how);
		while (!done) { /* the rest of the dump comes with poll */
			ssize_t n = rx_take(&s, rest, sizeof rest, NULL, 2000);
			done = has_done(rest, n);
		}
	}
	ok();
	return 0;
}
