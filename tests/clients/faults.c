/* faults.c: everything an ordinary client does with rings, by one that bears a failure at any place (faults.h). */
#include "faults.h"

static uint32_t seq = 1;

/* Sends what is in buf through the TX ring, again under another number for as long as a kick says that it failed. */
static void send_it(struct sock *s, struct nlmsghdr *n)
{
	for (int try = 0;; try++) {
		struct nl_mmap_hdr *h = head(&s->tx);
		ssize_t sent;
		n->nlmsg_seq = ++seq;
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", s->tx.pos, status_of(h));
		memcpy(payload(h), n, n->nlmsg_len);
		h->nm_len = n->nlmsg_len;
		set_status(h, NL_MMAP_STATUS_VALID);
		sent = tx_kick(s);
		if (sent == -1) {
			failures++;
			fprintf(stderr, "kick: %s\n", strerror(errno));
			if (try == TRIES)
				_exit(EXIT_GIVEN_UP);
		}
		if (status_of(h) == NL_MMAP_STATUS_VALID) {
			CHECK(sent <= 0, "the kick sent %zd bytes and left the frame", sent);
			set_status(h, NL_MMAP_STATUS_UNUSED); /* taken back: the head is still here */
			continue;
		}
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", s->tx.pos, status_of(h));
		advance(&s->tx);
		if (sent != -1) {
			CHECK(sent == (ssize_t)n->nlmsg_len, "the kick sent %zd of %u bytes", sent, n->nlmsg_len);
			return;
		}
	}
}

static void request(struct sock *s)
{
	struct nlmsghdr n;
	struct { struct nlmsghdr h; struct nlmsgerr e; } *m = (void *)buf;
	msg(&n, NLMSG_NOOP, NLM_F_ACK, 0, 0);
	send_it(s, &n);
	next(s, by_poll);
	CHECK(m->h.nlmsg_type == NLMSG_ERROR && m->h.nlmsg_seq == seq && !m->e.error,
	      "type %u, sequence %u, error %d instead of the acknowledgement of %u", m->h.nlmsg_type, m->h.nlmsg_seq, m->e.error, seq);
}

static void dump(struct sock *s)
{
	struct { struct nlmsghdr h; struct rtgenmsg g; char pad[3]; } q;
	int links = 0;
	msg(&q, RTM_GETLINK, NLM_F_DUMP, 0, sizeof q.g);
	send_it(s, &q.h);
	for (;;) {
		int len = next(s, by_poll);
		for (struct nlmsghdr *n = (void *)buf; NLMSG_OK(n, len); n = NLMSG_NEXT(n, len)) {
			CHECK(n->nlmsg_seq == seq, "sequence %u in the dump %u", n->nlmsg_seq, seq);
			if (n->nlmsg_type == NLMSG_DONE) {
				CHECK(links == 1, "%d links", links);
				return;
			}
			CHECK(n->nlmsg_type == RTM_NEWLINK, "type %u in a dump of links", n->nlmsg_type);
			links++;
		}
	}
}

static void in_child(struct sock *s)
{
	volatile unsigned *at = (void *)AGAIN("mmap", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	int status;
	pid_t pid = AGAIN("fork", fork());
	if (pid == 0) {
		request(s);
		at[0] = s->rx.pos;
		at[1] = s->tx.pos;
		at[2] = seq;
		/* The parent, who has made it, goes on. */
		AGAIN("munmap", munmap(s->map, s->len));
		AGAIN("close", close(s->fd));
		_exit(0);
	}
	AGAIN("wait4", waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_GIVEN_UP)
		_exit(EXIT_GIVEN_UP);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", status);
	s->rx.pos = at[0];
	s->tx.pos = at[1];
	seq = at[2];
	AGAIN("munmap", munmap((void *)at, 4096));
}

int main(void)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	struct epoll_event e = { .events = EPOLLIN };
	struct sock s, u;
	int from, other;

	fprintf(stderr, "begin\n");
	from = AGAIN("socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK));
	AGAIN("bind", bind(from, (struct sockaddr *)&any, sizeof any));
	s = open_rings(NETLINK_ROUTE);
	request(&s);
	dump(&s);
	other = AGAIN("dup", dup(s.fd));
	AGAIN("close", close(s.fd));
	s.fd = other;
	request(&s);
	u = open_rings(NETLINK_USERSOCK);
	events(&u, from, by_poll);
	ep = AGAIN("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, u.fd, &e));
	events(&u, from, by_epoll);
	request(&s);
	in_child(&s);
	request(&s);
	AGAIN("close", close(ep));
	AGAIN("munmap", munmap(u.map, u.len));
	AGAIN("close", close(u.fd));
	AGAIN("munmap", munmap(s.map, s.len));
	AGAIN("close", close(s.fd));
	AGAIN("close", close(from));
	return report();
}
