/* device_stalled NODE N: N listeners with small rings, in a network namespace of their own, hear a burst that fills them, and
 * sleep. Says so, waits for a
 * line; then half of them take what they have and poll, the others only take it: all get the rest. */
#include "device.h"
#include <sched.h>

enum { FRAMES = 4, SENT = 10 };

static struct device *all;

/* Takes what is in the ring: messages numbered from the expected one on. */
static unsigned take(struct device *d, unsigned seq)
{
	while (1) {
		struct nl_mmap_hdr *h = frame_at(d, 0, d->rx);
		struct nlmsghdr *n = (void *)((char *)h + NL_MMAP_HDRLEN);
		if (status_of(h) != NL_MMAP_STATUS_VALID)
			return seq;
		CHECK(n->nlmsg_seq == seq, "message %u, expected %u", n->nlmsg_seq, seq);
		set_status(h, NL_MMAP_STATUS_UNUSED);
		d->rx++;
		seq++;
	}
}

/* The kernel tells the group of it, in a message with this number. */
static void add_address(int sender, unsigned seq)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_NEWADDR, NLM_F_CREATE | NLM_F_ACK, seq, sizeof(struct ifaddrmsg));
	struct ifaddrmsg *a = NLMSG_DATA(n);
	struct rtattr *local = (void *)(req + n->nlmsg_len);
	unsigned char address[4] = { 127, 1, 1, seq };
	a->ifa_family = AF_INET;
	a->ifa_prefixlen = 32;
	a->ifa_index = 1;
	local->rta_type = IFA_LOCAL;
	local->rta_len = RTA_LENGTH(4);
	memcpy(RTA_DATA(local), address, 4);
	n->nlmsg_len += RTA_SPACE(4);
	CALL(send(sender, n, n->nlmsg_len, 0));
	CALL(recv(sender, req, sizeof req, 0));
	CHECK(ack_of(req, sizeof req, seq) == 0, "RTM_NEWADDR: %s", strerror(ack_of(req, sizeof req, seq)));
}

int main(int argc, char **argv)
{
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	struct sockaddr_nl group = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR };
	unsigned i, seq, waits, done, *next, count = argc > 2 ? atoi(argv[2]) : 0;
	char req[64];
	int sender;
	CHECK(argc == 3, "usage: %s NODE N", argv[0]);
	CHECK((all = calloc(count, sizeof *all)) && (next = calloc(count, sizeof *next)), "memory");
	CALL(unshare(CLONE_NEWNET));
	CALL(sender = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	for (i = 0; i < count; i++) {
		struct device *d = &all[i];
		CALL(d->fd = open(argv[1], O_RDWR | O_CLOEXEC));
		CALL(ioctl(d->fd, NLMMAP_SOCKET, &s));
		CALL(ioctl(d->fd, NLMMAP_BIND, &group));
		device_rings(d, 4096, 1, 4096 / FRAMES);
	}
	for (seq = 1; seq <= SENT; seq++)
		add_address(sender, seq);
	for (i = 0; i < count; i++)
		while (status_of(frame_at(&all[i], 0, FRAMES - 1)) != NL_MMAP_STATUS_VALID)
			usleep(1000);
	puts("stalled");
	fflush(stdout);
	CHECK(fgets(req, sizeof req, stdin), "input");
	for (i = 0; i < count; i += 2) {
		struct device *d = &all[i];
		for (seq = take(d, 1); seq <= SENT; seq = take(d, seq)) {
			struct pollfd p = { .fd = d->fd, .events = POLLIN };
			/* The call itself looks: nothing is waited for. */
			CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN, "poll after message %u: %#x", seq - 1, p.revents);
		}
	}
	for (i = 0; i < count; i++)
		next[i] = i % 2 ? 1 : SENT + 1;
	for (waits = 0, done = 0; done < count; waits++) {
		CHECK(waits < 30000, "%u of %u have everything", done, count);
		usleep(1000);
		for (i = 0, done = 0; i < count; i++) {
			if (next[i] <= SENT)
				next[i] = take(&all[i], next[i]);
			done += next[i] > SENT;
		}
	}
	puts("all there");
	return 0;
}
