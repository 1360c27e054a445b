/* device_restart NODE dump|wait|stuck MARKS: a client whose daemon goes and comes back.
 * dump   asks for links through its rings, over and over
 * wait   sleeps in poll, and in epoll, for messages that do not come
 * stuck  sleeps in a blocking read
 * Whatever it does when the daemon goes ends with an error within seconds; then it opens the node again as soon as there is one.
 * It writes a byte to its output each time it is at work again. */
#include "device.h"
#include <signal.h>
#include <time.h>

static const char *node;
static char buf[1 << 16];
static unsigned seq;

/* 0, or -1 when something of it failed. */
static int begin(struct device *d, int rings)
{
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	struct nlmmap_map_info info;
	int memory;
	memset(d, 0, sizeof *d);
	d->fd = open(node, O_RDWR | O_CLOEXEC);
	if (d->fd < 0)
		return -1;
	d->req = (struct nl_mmap_req){ 65536, 1, 16384, 4 };
	if (ioctl(d->fd, NLMMAP_SOCKET, &s) || ioctl(d->fd, NLMMAP_BIND, &any))
		return -1;
	if (!rings)
		return 0;
	if (ioctl(d->fd, NLMMAP_RX_RING, &d->req) || ioctl(d->fd, NLMMAP_TX_RING, &d->req) || ioctl(d->fd, NLMMAP_MAP_INFO, &info))
		return -1;
	d->rx_len = info.rx_len;
	d->tx_len = info.tx_len;
	memory = d->fd;
	if (info.how == NLMMAP_MAP_MEMORY) {
		CALL(memory = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING));
		CALL(ftruncate(memory, d->rx_len + d->tx_len));
		CALL(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	}
	if (memory == d->fd || ioctl(d->fd, NLMMAP_MEMORY, &memory) == 0)
		d->rings = mmap(NULL, d->rx_len + d->tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (memory != d->fd)
		close(memory);
	return !d->rings || d->rings == MAP_FAILED ? -1 : 0;
}

static void end(struct device *d)
{
	/* Its rings are memory: they stay what they are, until they are given back. */
	if (d->rings && d->rings != MAP_FAILED) {
		memset(d->rings, 0, d->rx_len + d->tx_len);
		CALL(munmap(d->rings, d->rx_len + d->tx_len));
	}
	if (d->fd >= 0)
		close(d->fd);
}

/* One round; -1 when the daemon is gone. */
static int dump(struct device *d)
{
	struct nl_mmap_hdr *h = frame_at(d, d->rx_len, d->tx);
	struct nlmmap_kick kick = { .sent = 0 };
	struct nlmsghdr *n = request((char *)h + NL_MMAP_HDRLEN, RTM_GETLINK, NLM_F_DUMP, ++seq, sizeof(struct ifinfomsg)), *m;
	int left;
	h->nm_len = n->nlmsg_len;
	set_status(h, NL_MMAP_STATUS_VALID);
	d->tx++;
	if (ioctl(d->fd, NLMMAP_KICK, &kick))
		return -1;
	for (;;) {
		struct nl_mmap_hdr *f = frame_at(d, 0, d->rx);
		struct pollfd p = { .fd = d->fd, .events = POLLIN };
		if (status_of(f) == NL_MMAP_STATUS_UNUSED) {
			int ready = poll(&p, 1, 10000);
			CHECK(ready != 0, "poll slept on");
			if (ready < 0 || p.revents & (POLLERR | POLLHUP | POLLNVAL))
				return -1;
			continue;
		}
		if (status_of(f) == NL_MMAP_STATUS_COPY) {
			left = read(d->fd, buf, sizeof buf);
			if (left < 0)
				return -1;
		} else {
			memcpy(buf, (char *)f + NL_MMAP_HDRLEN, left = f->nm_len);
		}
		set_status(f, NL_MMAP_STATUS_UNUSED);
		d->rx++;
		for (m = (void *)buf; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
			if (m->nlmsg_type == NLMSG_DONE && m->nlmsg_seq == seq)
				return 0;
	}
}

static int waits(struct device *d, unsigned round)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	struct epoll_event e = { .events = EPOLLIN | (round & 2 ? EPOLLET : 0) };
	int epoll, n;
	if (round & 1) {
		n = poll(&p, 1, 40000);
		CHECK(n != 0, "poll slept on");
		return p.revents & (POLLERR | POLLHUP) ? -1 : 0;
	}
	CALL(epoll = epoll_create1(EPOLL_CLOEXEC));
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, d->fd, &e))
		return -1;
	n = epoll_wait(epoll, &e, 1, 40000);
	CHECK(n != 0, "epoll_wait slept on");
	close(epoll);
	return e.events & (EPOLLERR | EPOLLHUP) ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct timespec pause = { 0, 5000000 };
	unsigned round;
	CHECK(argc == 3, "usage: device_restart NODE dump|wait|stuck");
	node = argv[1];
	alarm(100);
	for (round = 0;; round++) {
		struct device d;
		int is_new = 1;
		while (begin(&d, *argv[2] == 'd')) {
			end(&d);
			nanosleep(&pause, NULL);
		}
		for (;;) {
			if (*argv[2] == 'd' && dump(&d))
				break;
			if (is_new && write(1, "!", 1) != 1)
				return 0;
			is_new = 0;
			if (*argv[2] == 'w' && waits(&d, round))
				break;
			if (*argv[2] == 's' && read(d.fd, buf, sizeof buf) < 0)
				break;
		}
		end(&d);
	}
}
