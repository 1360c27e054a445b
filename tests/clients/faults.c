/* faults.c: everything a client does with rings, by a client that bears a failure at any place. What has failed it does
 * again: a call that said it failed has done nothing that its repetition would show twice, and one that said it succeeded has
 * lost nothing. Where the failure lasts, the client says which step it has given up, and ends with 4.
 *
 * At the end it says what it still has: descriptors, mappings, threads. */
#include "msg.h"
#include <dirent.h>
#include <sys/epoll.h>

enum { EXIT_GIVEN_UP = 4, TRIES = 3, EVENTS = 3, MS = 3000 };

static uint32_t seq = 1;
static int failures;
static char buf[65536];

/* Does a call again that failed, a few times. */
#define AGAIN(step, call) ({ \
	long r_; \
	int try_ = 0; \
	while ((r_ = (long)(call)) == -1) { \
		failures++; \
		fprintf(stderr, "%s: %s\n", step, strerror(errno)); \
		if (errno == ENOPROTOOPT && !strcmp(step, "rings")) \
			_exit(EXIT_REFUSED); \
		if (++try_ == TRIES) \
			_exit(EXIT_GIVEN_UP); \
	} \
	r_; \
})

/* The same for calls that answer NULL. */
#define CHECKED(step, call) AGAIN(step, (long)(call) ?: -1)

static int count(const char *dir)
{
	DIR *d = (DIR *)CHECKED("opendir", opendir(dir));
	int n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Mappings of files and of shared memory: what the allocator has is its own affair. */
static int mappings(void)
{
	FILE *f = (FILE *)CHECKED("fopen", fopen("/proc/self/maps", "re"));
	char line[512], perms[8];
	int n = 0;
	while (fgets(line, sizeof line, f))
		n += sscanf(line, "%*s %7s", perms) == 1 && perms[3] == 's';
	fclose(f);
	return n;
}

static struct sock open_rings(int proto)
{
	struct nl_mmap_req req = GEOM(16384, 1, 2048);
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof a;
	struct sock s = { .len = 2 * req_bytes(req) };
	s.fd = AGAIN("socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, proto));
	AGAIN("rings", setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req));
	AGAIN("rings", setsockopt(s.fd, SOL_NETLINK, NETLINK_TX_RING, &req, sizeof req));
	s.map = (char *)AGAIN("mmap", mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0));
	s.rx = ring_at(s.map, req);
	s.tx = ring_at(s.map + req_bytes(req), req);
	AGAIN("bind", bind(s.fd, (struct sockaddr *)&a, sizeof a));
	AGAIN("getsockname", getsockname(s.fd, (struct sockaddr *)&a, &len));
	s.port = a.nl_pid;
	return s;
}

/* The next message, waited for by `wait`; an error that the socket tells of is a failure like others. */
static ssize_t next(struct sock *s, int (*wait)(struct sock *))
{
	long end = now_ms() + MS;
	for (;;) {
		struct nl_mmap_hdr *h = head(&s->rx);
		unsigned st = status_of(h), len = h->nm_len;
		if (st == NL_MMAP_STATUS_VALID && len) {
			memcpy(buf, payload(h), len);
		} else if (st == NL_MMAP_STATUS_COPY) {
			ssize_t n = AGAIN("recv", recv(s->fd, buf, sizeof buf, MSG_DONTWAIT));
			CHECK(n == (ssize_t)len, "COPY of %u bytes, recv gave %zd", len, n);
		} else if (st == NL_MMAP_STATUS_UNUSED) {
			CHECK(now_ms() < end, "nothing within %d ms", MS);
			AGAIN("wait", wait(s));
			continue;
		}
		set_status(h, NL_MMAP_STATUS_UNUSED);
		advance(&s->rx);
		if (st == NL_MMAP_STATUS_COPY || len)
			return len;
	}
}

/* Takes an error away that the socket reports. */
static int error_of(int fd)
{
	int error = 0;
	socklen_t len = sizeof error;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len))
		return -1;
	errno = error;
	return error ? -1 : 0;
}

static int by_poll(struct sock *s)
{
	struct pollfd p = { s->fd, POLLIN, 0 };
	int n = poll(&p, 1, 500);
	return n > 0 && p.revents & POLLERR ? error_of(s->fd) : n;
}

static int ep = -1;

static int by_epoll(struct sock *s)
{
	struct epoll_event e;
	int n = epoll_wait(ep, &e, 1, 500);
	return n > 0 && e.events & EPOLLERR ? error_of(s->fd) : n;
}

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

/* Messages of another process, of which one is larger than a frame. */
static void events(struct sock *s, int from, int (*wait)(struct sock *))
{
	static char text[4000];
	for (int i = 0; i < EVENTS; i++) {
		struct nlmsghdr *n = msg(text, 77, 0, i, 0);
		n->nlmsg_len = i == 1 ? sizeof text : 100;
		AGAIN("the sender", plain_send(from, text, n->nlmsg_len, s->port, 0));
	}
	for (int i = 0; i < EVENTS; i++) {
		ssize_t len = next(s, wait);
		struct nlmsghdr *n = (void *)buf;
		CHECK(n->nlmsg_seq == (uint32_t)i && len == (i == 1 ? (ssize_t)sizeof text : 100), "message %u of %zd bytes instead of %d",
		      n->nlmsg_seq, len, i);
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
	fprintf(stderr, "end\n");
	msleep(10);
	printf("failures %d, descriptors %d, mappings %d, threads %d\n", failures, count("/proc/self/fd"), mappings(),
	       count("/proc/self/task"));
	return 0;
}
