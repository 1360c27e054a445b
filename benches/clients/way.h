/* way.h: the ways to receive, each written as programs usually write it.
 *
 * recv      recv, which sleeps
 * poll      poll, then one recv: the usual loop
 * drain     poll, then recv until EAGAIN
 * mmsg      recvmmsg of up to 64, which sleeps for the first
 * ring      the memory-mapped ABI as of 2013: poll, walk VALID frames, release each, COPY by recv.
 *           ring:SIZE:NR gives frame size and number (default 2048:128) */
#ifndef WAY_H
#define WAY_H
#include "bench.h"

enum way { RECV, POLL, DRAIN, MMSG, RING };

struct ring {
	char *base;
	unsigned frame_size, frame_nr, per_block, block_size, pos;
};

struct chan {
	enum way way;
	int fd;
	uint32_t port;
	unsigned frame_size, frame_nr;
	struct ring rx, tx;
	uint64_t copies;
};

/* Times that ENOBUFS was reported. Every program here checks that no message is missing all the same. */
static uint64_t told;

enum { BUF = 65536, VLEN = 64, SLOT = 8192 };
static char chan_buf[BUF];
__attribute__((unused)) static char chan_slots[VLEN][SLOT];

static inline struct chan chan_parse(const char *name)
{
	struct chan c = { .frame_size = 2048, .frame_nr = 128 };
	static const char *const names[] = { "recv", "poll", "drain", "mmsg", "ring" };
	size_t len = strcspn(name, ":");
	for (c.way = RECV; c.way <= RING; c.way++)
		if (strlen(names[c.way]) == len && !strncmp(names[c.way], name, len))
			break;
	CHECK(c.way <= RING, "no such way: %s", name);
	if (name[len] == ':')
		CHECK(sscanf(name + len, ":%u:%u", &c.frame_size, &c.frame_nr) == 2, "ring:SIZE:NR, not %s", name);
	return c;
}

/* A bound socket with a large receive buffer. */
static inline void chan_socket(struct chan *c, int proto)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof a;
	int room = 512 << 20;
	c->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, proto);
	CALL(c->fd);
	CALL(bind(c->fd, (struct sockaddr *)&a, sizeof a));
	CALL(getsockname(c->fd, (struct sockaddr *)&a, &len));
	c->port = a.nl_pid;
	CALL(setsockopt(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room));
}

static inline void report(struct meter *m, struct chan *c, uint64_t messages)
{
	printf("told=%lu ", told);
	meter_stop(m, messages, c->copies);
}

static inline struct nl_mmap_req geometry(unsigned size, unsigned nr)
{
	unsigned block = size > 16384 ? size : 16384;
	if (block / size > nr)
		block = size * nr;
	CHECK(block % 4096 == 0 && nr % (block / size) == 0, "no ring of %u frames of %u bytes", nr, size);
	return (struct nl_mmap_req){ block, nr / (block / size), size, nr };
}

/* Rings, if that is the way: RX as asked for, TX of `tx_nr` frames of `tx_size` unless that is 0. */
static inline void chan_rings(struct chan *c, unsigned tx_size, unsigned tx_nr)
{
	struct nl_mmap_req rx = geometry(c->frame_size, c->frame_nr), tx = { 0 };
	size_t len = (size_t)rx.nm_block_size * rx.nm_block_nr;
	if (c->way != RING)
		return;
	CALL(setsockopt(c->fd, SOL_NETLINK, NETLINK_RX_RING, &rx, sizeof rx));
	if (tx_nr) {
		tx = geometry(tx_size, tx_nr);
		CALL(setsockopt(c->fd, SOL_NETLINK, NETLINK_TX_RING, &tx, sizeof tx));
	}
	c->rx = (struct ring){ NULL, rx.nm_frame_size, rx.nm_frame_nr, rx.nm_block_size / rx.nm_frame_size,
			       rx.nm_block_size, 0 };
	c->rx.base = mmap(NULL, len + (size_t)tx.nm_block_size * tx.nm_block_nr, PROT_READ | PROT_WRITE, MAP_SHARED,
			  c->fd, 0);
	CHECK(c->rx.base != MAP_FAILED, "mmap of the rings: %s", strerror(errno));
	if (tx_nr)
		c->tx = (struct ring){ c->rx.base + len, tx.nm_frame_size, tx.nm_frame_nr,
				       tx.nm_block_size / tx.nm_frame_size, tx.nm_block_size, 0 };
}

static inline struct nl_mmap_hdr *frame(const struct ring *r)
{
	return (struct nl_mmap_hdr *)(r->base + (size_t)(r->pos / r->per_block) * r->block_size +
				      (size_t)(r->pos % r->per_block) * r->frame_size);
}

static inline void advance(struct ring *r)
{
	if (++r->pos == r->frame_nr)
		r->pos = 0;
}

static inline unsigned status(struct nl_mmap_hdr *h)
{
	return __atomic_load_n(&h->nm_status, __ATOMIC_ACQUIRE);
}

static inline void set_status(struct nl_mmap_hdr *h, unsigned s)
{
	__atomic_store_n(&h->nm_status, s, __ATOMIC_RELEASE);
}

static inline void wait_for(int fd)
{
	struct pollfd p = { fd, POLLIN | POLLERR, 0 };
	int r, error;
	socklen_t len = sizeof error;
	while ((r = poll(&p, 1, -1)) < 0 && errno == EINTR)
		;
	CHECK(r == 1, "poll: %s", strerror(errno));
	if (p.revents & POLLERR) {
		CALL(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
		CHECK(error == 0 || error == ENOBUFS, "the socket's error: %s", strerror(error));
		told++;
	}
}

/* recv that goes on when it is told of lost messages. */
static inline ssize_t receive(int fd, int flags)
{
	ssize_t n;
	while ((n = recv(fd, chan_buf, BUF, flags)) < 0 && errno == ENOBUFS)
		told++;
	return n;
}

/* Hands the messages that are there to `f`, sleeping until there is at least one. */
#define CHAN_EACH(c, f) do { \
	ssize_t n_; \
	switch ((c)->way) { \
	case RECV: \
	case POLL: \
		if ((c)->way == POLL) \
			wait_for((c)->fd); \
		n_ = receive((c)->fd, 0); \
		CHECK(n_ >= 0, "recv: %s", strerror(errno)); \
		f(c, chan_buf, n_); \
		break; \
	case DRAIN: \
		wait_for((c)->fd); \
		while ((n_ = receive((c)->fd, MSG_DONTWAIT)) >= 0) \
			f(c, chan_buf, n_); \
		CHECK(errno == EAGAIN, "recv: %s", strerror(errno)); \
		break; \
	case MMSG: { \
		static struct iovec iov_[VLEN]; \
		static struct mmsghdr msgs_[VLEN]; \
		if (!iov_[0].iov_base) \
			for (int i_ = 0; i_ < VLEN; i_++) { \
				iov_[i_] = (struct iovec){ chan_slots[i_], SLOT }; \
				msgs_[i_].msg_hdr.msg_iov = &iov_[i_]; \
				msgs_[i_].msg_hdr.msg_iovlen = 1; \
			} \
		n_ = recvmmsg((c)->fd, msgs_, VLEN, MSG_WAITFORONE, NULL); \
		CHECK(n_ > 0, "recvmmsg: %s", strerror(errno)); \
		for (int i_ = 0; i_ < n_; i_++) \
			f(c, chan_slots[i_], msgs_[i_].msg_len); \
		break; \
	} \
	case RING: \
		wait_for((c)->fd); \
		RING_EACH(c, f); \
	} \
} while (0)

#define RING_EACH(c, f) do { \
	for (;;) { \
		struct nl_mmap_hdr *h_ = frame(&(c)->rx); \
		unsigned s_ = status(h_); \
		if (s_ == NL_MMAP_STATUS_VALID) { \
			if (h_->nm_len) \
				f(c, (char *)h_ + NL_MMAP_HDRLEN, h_->nm_len); \
		} else if (s_ == NL_MMAP_STATUS_COPY) { \
			ssize_t n_ = receive((c)->fd, MSG_DONTWAIT); \
			CHECK(n_ >= 0, "recv of a COPY message: %s", strerror(errno)); \
			(c)->copies++; \
			f(c, chan_buf, n_); \
		} else { \
			break; \
		} \
		set_status(h_, NL_MMAP_STATUS_UNUSED); \
		advance(&(c)->rx); \
	} \
} while (0)
#endif
