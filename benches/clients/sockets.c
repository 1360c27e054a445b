/* sockets.c WAY SOCKETS COUNT: COUNT messages of 128 bytes over NETLINK_USERSOCK, in turn to each of SOCKETS sockets of one
 * process.
 *
 * epoll, poll        wait for all sockets, one recv from each that is readable
 * epollring, ring    wait for all sockets, walk the ring of each that is readable */
#include "way.h"
#include <sys/epoll.h>

enum { MOST = 64, SIZE = 128 };
static struct chan chans[MOST];
static uint32_t next[MOST];
static uint64_t seen, sum;

static inline void take(struct chan *c, const char *m, size_t len)
{
	const struct nlmsghdr *n = (const void *)m;
	CHECK(len == SIZE && n->nlmsg_seq == next[c - chans], "message %u of %zu bytes instead of %u", n->nlmsg_seq, len,
	      next[c - chans]);
	for (size_t i = sizeof *n; i < len; i += 64)
		sum += (unsigned char)m[i];
	next[c - chans]++;
	seen++;
}

static inline void ready(struct chan *c)
{
	ssize_t n;
	if (c->way == RING) {
		RING_EACH(c, take);
		return;
	}
	n = receive(c->fd, 0);
	CHECK(n >= 0, "recv: %s", strerror(errno));
	take(c, chan_buf, n);
}

static void send_all(int sockets, uint64_t count)
{
	static struct nlmsghdr data[MOST][SIZE / sizeof(struct nlmsghdr)];
	static struct iovec iov[MOST];
	static struct sockaddr_nl to[MOST];
	static struct mmsghdr msgs[MOST];
	int fd = outside_socket(NETLINK_USERSOCK);
	CALL(fd);
	for (int i = 0; i < MOST; i++) {
		to[i] = (struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = chans[i % sockets].port };
		iov[i] = (struct iovec){ data[i], SIZE };
		msgs[i].msg_hdr = (struct msghdr){ .msg_name = &to[i], .msg_namelen = sizeof to[i], .msg_iov = &iov[i],
						   .msg_iovlen = 1 };
	}
	for (uint64_t done = 0; done < count; done += MOST) {
		for (int i = 0; i < MOST; i++)
			data[i][0] = (struct nlmsghdr){ SIZE, 77, 0, (done + i) / sockets, 0 };
		for (int i = 0; i < MOST;) {
			int n = sendmmsg(fd, msgs + i, MOST - i, 0);
			CHECK(n > 0, "sendmmsg: %s", strerror(errno));
			i += n;
		}
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	volatile uint64_t *go = shared_words();
	struct pollfd polls[MOST];
	struct epoll_event events[MOST];
	struct meter m;
	int sockets, by_epoll, ring, ep = -1;
	uint64_t count;
	pid_t sender;
	CHECK(argc == 4, "usage: sockets epoll|poll|epollring|ring SOCKETS COUNT");
	by_epoll = !strncmp(argv[1], "epoll", 5);
	ring = strstr(argv[1], "ring") != NULL;
	sockets = number(argv[2]);
	count = (number(argv[3]) + MOST - 1) / MOST * MOST;
	CHECK(sockets >= 1 && sockets <= MOST && MOST % sockets == 0, "1, 2, 4, .. %d sockets", MOST);
	for (int i = 0; i < sockets; i++) {
		chans[i] = chan_parse(ring ? "ring" : "poll");
		chan_socket(&chans[i], NETLINK_USERSOCK);
	}
	sender = helper();
	if (sender == 0) {
		while (!*go)
			usleep(100);
		send_all(sockets, count);
	}
	counter_open();
	if (by_epoll)
		CALL(ep = epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < sockets; i++) {
		struct epoll_event e = { EPOLLIN, { .u32 = i } };
		chan_rings(&chans[i], 0, 0);
		polls[i] = (struct pollfd){ chans[i].fd, POLLIN, 0 };
		if (by_epoll)
			CALL(epoll_ctl(ep, EPOLL_CTL_ADD, chans[i].fd, &e));
	}
	meter_start(&m);
	*go = 1;
	while (seen < count) {
		int n = by_epoll ? epoll_wait(ep, events, MOST, -1) : poll(polls, sockets, -1);
		CHECK(n > 0, "wait: %s", strerror(errno));
		if (by_epoll)
			for (int i = 0; i < n; i++)
				ready(&chans[events[i].data.u32]);
		else
			for (int i = 0; i < sockets; i++)
				if (polls[i].revents)
					ready(&chans[i]);
	}
	for (int i = 1; i < sockets; i++)
		chans[0].copies += chans[i].copies;
	report(&m, &chans[0], seen);
	join_helper(sender);
	return sum == 1;
}
