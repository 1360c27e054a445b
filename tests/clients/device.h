/* device.h: a client of the device node, by nothing but its header: open, socket, rings, map, kick, next frame. */
#ifndef DEVICE_H
#define DEVICE_H
#define _GNU_SOURCE
#include <nlmmap.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DIE(...) (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define CHECK(x, ...) ((x) ? (void)0 : DIE(__VA_ARGS__))
#define CALL(x) CHECK((x) >= 0, "%s: %s", #x, strerror(errno))

/* Seconds. */
static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* For qsort. */
static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct device {
	int fd;
	struct nl_mmap_req req;
	size_t rx_len, tx_len;
	char *rings;
	unsigned rx, tx; /* the client's positions */
};

static inline void device_open(struct device *d, const char *node, int protocol)
{
	struct nlmmap_socket s = { SOCK_RAW, protocol };
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	memset(d, 0, sizeof *d);
	CALL(d->fd = open(node, O_RDWR | O_CLOEXEC));
	CALL(ioctl(d->fd, NLMMAP_SOCKET, &s));
	CALL(ioctl(d->fd, NLMMAP_BIND, &any));
}

/* Both rings of the same shape, mapped as the node can. */
static inline void device_rings(struct device *d, unsigned block, unsigned blocks, unsigned frame)
{
	struct nlmmap_map_info info;
	int memory = d->fd;
	d->req = (struct nl_mmap_req){ block, blocks, frame, block / frame * blocks };
	CALL(ioctl(d->fd, NLMMAP_RX_RING, &d->req));
	CALL(ioctl(d->fd, NLMMAP_TX_RING, &d->req));
	CALL(ioctl(d->fd, NLMMAP_MAP_INFO, &info));
	d->rx_len = info.rx_len;
	d->tx_len = info.tx_len;
	CHECK(d->rx_len == (size_t)block * blocks && d->tx_len == d->rx_len, "lengths %zu and %zu", d->rx_len, d->tx_len);
	if (info.how == NLMMAP_MAP_MEMORY) {
		CALL(memory = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING));
		CALL(ftruncate(memory, d->rx_len + d->tx_len));
		CALL(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
		CALL(ioctl(d->fd, NLMMAP_MEMORY, &memory));
	}
	d->rings = mmap(NULL, d->rx_len + d->tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	CHECK(d->rings != MAP_FAILED, "mmap: %s", strerror(errno));
	if (memory != d->fd)
		close(memory);
}

static inline struct nl_mmap_hdr *frame_at(struct device *d, size_t ring, unsigned pos)
{
	unsigned per = d->req.nm_block_size / d->req.nm_frame_size;
	pos %= d->req.nm_frame_nr;
	return (void *)(d->rings + ring + (size_t)(pos / per) * d->req.nm_block_size + (size_t)(pos % per) * d->req.nm_frame_size);
}

static inline unsigned status_of(struct nl_mmap_hdr *h)
{
	return __atomic_load_n(&h->nm_status, __ATOMIC_ACQUIRE);
}

static inline void set_status(struct nl_mmap_hdr *h, unsigned status)
{
	__atomic_store_n(&h->nm_status, status, __ATOMIC_RELEASE);
}

static inline struct nlmsghdr *request(void *buf, int type, int flags, unsigned seq, size_t fixed)
{
	struct nlmsghdr *n = buf;
	memset(buf, 0, NLMSG_SPACE(fixed));
	*n = (struct nlmsghdr){ NLMSG_LENGTH(fixed), type, NLM_F_REQUEST | flags, seq, 0 };
	return n;
}

/* Sends a message through the TX ring; 0, or the error of the kick. */
static inline int device_send(struct device *d, const struct nlmsghdr *n, const struct sockaddr_nl *to)
{
	struct nl_mmap_hdr *h = frame_at(d, d->rx_len, d->tx);
	struct nlmmap_kick kick = { .sent = 0 };
	if (to) {
		kick.dest = *to;
		kick.dest_len = sizeof *to;
	}
	CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", d->tx, status_of(h));
	memcpy((char *)h + NL_MMAP_HDRLEN, n, n->nlmsg_len);
	h->nm_len = n->nlmsg_len;
	set_status(h, NL_MMAP_STATUS_VALID);
	d->tx++;
	if (ioctl(d->fd, NLMMAP_KICK, &kick))
		return errno;
	CHECK(kick.sent == n->nlmsg_len, "the kick sent %llu bytes", (unsigned long long)kick.sent);
	CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "the frame was not taken");
	return 0;
}

/* Waits with poll until the node is readable. */
static inline void wait_poll(struct device *d)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	int n = poll(&p, 1, 20000);
	CHECK(n == 1, "poll: %d, %s", n, n ? strerror(errno) : "nothing within 20 s");
	CHECK(p.revents == POLLIN, "poll answered %#x", p.revents);
}

/* The next message, copied to buf; waits for it. A wake-up without a message is an error. */
static inline size_t device_next(struct device *d, void *buf, size_t size, void (*wait)(struct device *))
{
	struct nl_mmap_hdr *h = frame_at(d, 0, d->rx);
	ssize_t len;
	if (status_of(h) != NL_MMAP_STATUS_VALID && status_of(h) != NL_MMAP_STATUS_COPY)
		wait(d);
	switch (status_of(h)) {
	case NL_MMAP_STATUS_VALID:
		len = h->nm_len;
		CHECK((size_t)len <= size && (unsigned)len <= d->req.nm_frame_size - NL_MMAP_HDRLEN, "frame of %zd bytes", len);
		memcpy(buf, (char *)h + NL_MMAP_HDRLEN, len);
		break;
	case NL_MMAP_STATUS_COPY:
		len = read(d->fd, buf, size);
		CHECK(len == (ssize_t)h->nm_len, "COPY of %u bytes, read gave %zd", h->nm_len, len);
		break;
	default:
		DIE("woken early: frame %u has status %u", d->rx, status_of(h));
	}
	set_status(h, NL_MMAP_STATUS_UNUSED);
	d->rx++;
	return len;
}

/* The errno of the acknowledgement of request seq in a message, or -1 for another message. */
static inline int ack_of(const void *buf, size_t len, unsigned seq)
{
	const struct nlmsghdr *n = buf;
	if (len < NLMSG_LENGTH(sizeof(struct nlmsgerr)) || n->nlmsg_type != NLMSG_ERROR || n->nlmsg_seq != seq)
		return -1;
	return -((const struct nlmsgerr *)NLMSG_DATA(n))->error;
}
#endif
