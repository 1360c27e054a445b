/* ring.h: what the clients here share: a memory-mapped netlink socket as programs of 2013 to
 * 2017 opened and walked it, with the uapi header and plain libc calls.
 *
 * Exit status: 0 all expectations held, 1 one did not (the reason is the last line of stderr),
 * 3 the kernel refused the rings with ENOPROTOOPT, 77 this kernel lacks what the client needs. */
#ifndef RING_H
#define RING_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#ifdef __GLIBC__
#define GLIBC_AT_LEAST(major, minor) __GLIBC_PREREQ(major, minor)
#else
#define GLIBC_AT_LEAST(major, minor) 0
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

enum { EXIT_REFUSED = 3, EXIT_LACKING = 77 };

#define UNUSED_ARG __attribute__((unused))
#define FAIL(...) do { \
	fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
	fprintf(stderr, __VA_ARGS__); \
	fputc('\n', stderr); \
	_exit(1); \
} while (0)
#define CHECK(cond, ...) do { if (!(cond)) FAIL(__VA_ARGS__); } while (0)
#define CHECK_CALL(call) do { if ((call) < 0) FAIL("%s: %s", #call, strerror(errno)); } while (0)
#define LACKING(...) do { \
	fprintf(stderr, "lacking: "); \
	fprintf(stderr, __VA_ARGS__); \
	fputc('\n', stderr); \
	_exit(EXIT_LACKING); \
} while (0)

struct ring {
	char *base;
	unsigned block_size, block_nr, frame_size, frame_nr;
	unsigned pos; /* the client's own position */
};

struct sock {
	int fd;
	uint32_t port;
	struct ring rx, tx;
	char *map;
	size_t len;
};

#define GEOM(block, nr, frame) \
	((struct nl_mmap_req){ (block), (nr), (frame), ((block) / (frame)) * (nr) })
#define NO_RING ((struct nl_mmap_req){ 0, 0, 0, 0 })

/* Set by the harness when the library answers as 4.5 did, faults included. */
static inline int strict(void)
{
	const char *s = getenv("NLMMAP_STRICT");
	return s && !strcmp(s, "1");
}

static inline long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static inline void msleep(long ms)
{
	struct timespec t = { ms / 1000, (ms % 1000) * 1000000 };
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static inline uint32_t port_of(int fd)
{
	struct sockaddr_nl a;
	socklen_t len = sizeof a;
	CHECK_CALL(getsockname(fd, (struct sockaddr *)&a, &len));
	return a.nl_pid;
}

static inline void bind_groups(int fd, uint32_t groups)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = groups };
	CHECK_CALL(bind(fd, (struct sockaddr *)&a, sizeof a));
}

/* An ordinary netlink socket, bound. */
static inline int plain_open(int proto)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, proto);
	if (fd < 0 && errno == EPROTONOSUPPORT)
		LACKING("netlink family %d", proto);
	CHECK(fd >= 0, "socket(%d): %s", proto, strerror(errno));
	bind_groups(fd, 0);
	return fd;
}

static inline void set_ring(int fd, int opt, struct nl_mmap_req req)
{
	if (!req.nm_block_nr)
		return;
	if (setsockopt(fd, SOL_NETLINK, opt, &req, sizeof req) == 0)
		return;
	if (errno == ENOPROTOOPT) {
		fprintf(stderr, "refused: %s\n", strerror(errno));
		_exit(EXIT_REFUSED);
	}
	FAIL("setsockopt(%s): %s", opt == NETLINK_RX_RING ? "RX_RING" : "TX_RING", strerror(errno));
}

static inline struct ring ring_at(char *base, struct nl_mmap_req req)
{
	return (struct ring){ base, req.nm_block_size, req.nm_block_nr, req.nm_frame_size,
			      req.nm_frame_nr, 0 };
}

static inline size_t req_bytes(struct nl_mmap_req req)
{
	return (size_t)req.nm_block_size * req.nm_block_nr;
}

/* Rings and the one mapping of both on a socket that exists. */
static inline struct sock ring_attach(int fd, struct nl_mmap_req rx, struct nl_mmap_req tx)
{
	struct sock s = { .fd = fd };
	set_ring(fd, NETLINK_RX_RING, rx);
	set_ring(fd, NETLINK_TX_RING, tx);
	s.len = req_bytes(rx) + req_bytes(tx);
	s.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(s.map != MAP_FAILED, "mmap of the rings: %s", strerror(errno));
	s.rx = ring_at(s.map, rx);
	s.tx = ring_at(s.map + req_bytes(rx), tx);
	return s;
}

static inline struct sock ring_open(int proto, struct nl_mmap_req rx, struct nl_mmap_req tx)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, proto);
	struct sock s;
	if (fd < 0 && errno == EPROTONOSUPPORT)
		LACKING("netlink family %d", proto);
	CHECK(fd >= 0, "socket(%d): %s", proto, strerror(errno));
	s = ring_attach(fd, rx, tx);
	bind_groups(fd, 0);
	s.port = port_of(fd);
	return s;
}

/* Frames never straddle a block. */
static inline struct nl_mmap_hdr *frame_at(const struct ring *r, unsigned i)
{
	unsigned per_block = r->block_size / r->frame_size;
	return (struct nl_mmap_hdr *)(r->base + (size_t)(i / per_block) * r->block_size +
				      (size_t)(i % per_block) * r->frame_size);
}

static inline char *payload(struct nl_mmap_hdr *h)
{
	return (char *)h + NL_MMAP_HDRLEN;
}

static inline unsigned status_of(struct nl_mmap_hdr *h)
{
	unsigned s = *(volatile unsigned *)&h->nm_status;
	__sync_synchronize();
	return s;
}

static inline void set_status(struct nl_mmap_hdr *h, unsigned s)
{
	__sync_synchronize();
	*(volatile unsigned *)&h->nm_status = s;
}

static inline struct nl_mmap_hdr *head(const struct ring *r)
{
	return frame_at(r, r->pos);
}

static inline void advance(struct ring *r)
{
	r->pos = (r->pos + 1) % r->frame_nr;
}

static inline int ready(const struct ring *r)
{
	unsigned s = status_of(head(r));
	return s == NL_MMAP_STATUS_VALID || s == NL_MMAP_STATUS_COPY;
}

/* The next message at the client's position, copied to buf, its frame released.
 * -1 when none is there; `meta`, if given, receives the frame header. */
static inline ssize_t rx_next(struct sock *s, void *buf, size_t size, struct nl_mmap_hdr *meta)
{
	struct nl_mmap_hdr *h = head(&s->rx);
	unsigned st = status_of(h), len = h->nm_len;
	ssize_t n;

	if (meta)
		*meta = *h;
	if (st == NL_MMAP_STATUS_VALID) {
		CHECK(len <= s->rx.frame_size - NL_MMAP_HDRLEN, "VALID frame claims %u bytes", len);
		CHECK(len <= size, "client buffer too small: %u", len);
		memcpy(buf, payload(h), len);
		n = len;
	} else if (st == NL_MMAP_STATUS_COPY) {
		n = recv(s->fd, buf, size, MSG_DONTWAIT);
		CHECK(n >= 0, "recv of a COPY message: %s", strerror(errno));
		CHECK((size_t)n == len, "COPY frame says %u bytes, recv gave %zd", len, n);
	} else {
		return -1;
	}
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&s->rx);
	return n;
}

/* As rx_next, waiting with poll as clients did. A POLLIN must never come before its frame. */
static inline ssize_t rx_take(struct sock *s, void *buf, size_t size, struct nl_mmap_hdr *meta, int ms)
{
	long end = now_ms() + ms;
	for (;;) {
		struct pollfd p = { s->fd, POLLIN | POLLERR, 0 };
		ssize_t n = rx_next(s, buf, size, meta);
		int r;
		if (n > 0 || (n == 0 && meta && meta->nm_status == NL_MMAP_STATUS_COPY))
			return n;
		if (n == 0)
			continue; /* VALID without bytes: a frame the kernel gave up */
		r = poll(&p, 1, end > now_ms() ? (int)(end - now_ms()) : 0);
		CHECK(r >= 0, "poll: %s", strerror(errno));
		CHECK(r > 0, "no message within %d ms", ms);
		CHECK(!(p.revents & POLLERR), "POLLERR while waiting for a message");
		CHECK(ready(&s->rx), "POLLIN but the head frame %u has status %u", s->rx.pos,
		      status_of(head(&s->rx)));
	}
}

static inline void tx_put(struct sock *s, const void *msg, unsigned len)
{
	struct nl_mmap_hdr *h = head(&s->tx);
	CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u is not UNUSED", s->tx.pos);
	memcpy(payload(h), msg, len);
	h->nm_len = len;
	set_status(h, NL_MMAP_STATUS_VALID);
	advance(&s->tx);
}

static inline ssize_t tx_kick_to(struct sock *s, uint32_t port, uint32_t groups)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups };
	return sendto(s->fd, NULL, 0, 0, (struct sockaddr *)&a, sizeof a);
}

static inline ssize_t tx_kick(struct sock *s)
{
	return tx_kick_to(s, 0, 0);
}

static inline ssize_t plain_send(int fd, const void *msg, size_t len, uint32_t port, uint32_t groups)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups };
	return sendto(fd, msg, len, 0, (struct sockaddr *)&a, sizeof a);
}

/* To a group. Families without a kernel half then refuse the unicast to port 0 that every send
 * includes; the members have the message all the same. */
static inline ssize_t multicast(int fd, const void *msg, size_t len, int group)
{
	ssize_t n = plain_send(fd, msg, len, 0, 1u << (group - 1));
	if (n < 0 && errno == ECONNREFUSED)
		n = len;
	return n;
}

/* A counter that a sender in another process reads without a call: how far the reader is. */
static inline volatile uint32_t *shared_counter(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return p;
}

/* Message `nr` may be sent when fewer than `window` are under way. */
static inline void await_window(volatile uint32_t *taken, uint32_t nr, uint32_t window)
{
	long end = now_ms() + 20000;
	while (nr - *taken >= window) {
		usleep(100);
		CHECK(now_ms() < end, "the reader stands still at message %u", *taken);
	}
}

/* A child must end with status 0; its reason is already on stderr. */
static inline void join_child(pid_t pid)
{
	int st;
	CHECK(waitpid(pid, &st, 0) == pid, "waitpid: %s", strerror(errno));
	if (WIFEXITED(st) && WEXITSTATUS(st) == 0)
		return;
	if (WIFSIGNALED(st))
		FAIL("child died of signal %d", WTERMSIG(st));
	_exit(WEXITSTATUS(st));
}

static inline void ok(void)
{
	puts("ok");
	fflush(stdout);
}
#endif
