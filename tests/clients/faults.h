/* faults.h: what clients share that bear a failure at any place. What has failed they do again: a call that said it failed has done
 * nothing that its repetition would show twice, and one that said it succeeded has lost nothing. Where the failure lasts, a client says
 * which step it has given up, and ends with 4.
 *
 * At the end it says what it still has: descriptors, mappings, threads. */
#ifndef FAULTS_H
#define FAULTS_H
#include "msg.h"
#include <dirent.h>
#include <sys/epoll.h>

enum { EXIT_GIVEN_UP = 4, TRIES = 3, EVENTS = 3, MS = 3000 };

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

static inline int count(const char *dir)
{
	DIR *d = (DIR *)CHECKED("opendir", opendir(dir));
	int n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Mappings of files and of shared memory: what the allocator has is its own affair. */
static inline int mappings(void)
{
	FILE *f = (FILE *)CHECKED("fopen", fopen("/proc/self/maps", "re"));
	char line[512], perms[8];
	int n = 0;
	while (fgets(line, sizeof line, f))
		n += sscanf(line, "%*s %7s", perms) == 1 && perms[3] == 's';
	fclose(f);
	return n;
}

/* A socket that is there gets rings and, unless it has one, an address. */
static inline struct sock rings_on(int fd, struct nl_mmap_req req, int unbound)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof a;
	struct sock s = { .fd = fd, .len = 2 * req_bytes(req) };
	AGAIN("rings", setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req));
	AGAIN("rings", setsockopt(s.fd, SOL_NETLINK, NETLINK_TX_RING, &req, sizeof req));
	s.map = (char *)AGAIN("mmap", mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0));
	s.rx = ring_at(s.map, req);
	s.tx = ring_at(s.map + req_bytes(req), req);
	if (unbound)
		return s;
	AGAIN("bind", bind(s.fd, (struct sockaddr *)&a, sizeof a));
	AGAIN("getsockname", getsockname(s.fd, (struct sockaddr *)&a, &len));
	s.port = a.nl_pid;
	return s;
}

static inline int netlink(int proto)
{
	return AGAIN("socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, proto));
}

static inline struct sock open_rings(int proto)
{
	return rings_on(netlink(proto), GEOM(16384, 1, 2048), 0);
}

/* The next message, waited for by `wait`; an error that the socket tells of is a failure like others. */
static inline ssize_t next(struct sock *s, int (*wait)(struct sock *))
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
static inline int error_of(int fd)
{
	int error = 0;
	socklen_t len = sizeof error;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len))
		return -1;
	errno = error;
	return error ? -1 : 0;
}

static inline int by_poll(struct sock *s)
{
	struct pollfd p = { s->fd, POLLIN, 0 };
	int n = poll(&p, 1, 500);
	return n > 0 && p.revents & POLLERR ? error_of(s->fd) : n;
}

static int ep = -1;

static inline int by_epoll(struct sock *s)
{
	struct epoll_event e;
	int n = epoll_wait(ep, &e, 1, 500);
	return n > 0 && e.events & EPOLLERR ? error_of(s->fd) : n;
}

/* Messages of another process, of which one is larger than a frame. */
static inline void events(struct sock *s, int from, int (*wait)(struct sock *))
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

/* What a client still has at its end. */
static inline int report(void)
{
	fprintf(stderr, "end\n");
	msleep(10);
	printf("failures %d, descriptors %d, mappings %d, threads %d\n", failures, count("/proc/self/fd"), mappings(),
	       count("/proc/self/task"));
	return 0;
}
#endif
