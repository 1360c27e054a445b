/* device_dump NODE poll|level|edge [hold]: dumps routes and links through the rings of a device node, twice, and
 * compares their number and bytes with what a socket of its own gets. `hold` then sleeps with everything open. */
#include "device.h"

static int epoll_fd = -1;
static char buf[1 << 20];

static void wait_epoll(struct device *d)
{
	struct epoll_event e;
	int n = epoll_wait(epoll_fd, &e, 1, 20000);
	CHECK(n == 1, "epoll_wait: %d, nothing within 20 s", n);
	CHECK(e.data.fd == d->fd && e.events & EPOLLIN, "epoll answered %#x", e.events);
}

struct tally {
	unsigned long messages, bytes;
};

/* Counts the messages of a dump part; whether it was the last. */
static int count(struct tally *t, const void *part, size_t len, unsigned seq)
{
	const struct nlmsghdr *n = part;
	for (; NLMSG_OK(n, len); n = NLMSG_NEXT(n, len)) {
		CHECK(n->nlmsg_seq == seq, "message of request %u in the dump of %u", n->nlmsg_seq, seq);
		if (n->nlmsg_type == NLMSG_DONE)
			return 1;
		CHECK(n->nlmsg_type != NLMSG_ERROR, "the dump failed: %s", strerror(-*(int *)NLMSG_DATA(n)));
		t->messages++;
		t->bytes += n->nlmsg_len;
	}
	CHECK(len == 0, "%zu bytes behind the last message", len);
	return 0;
}

static struct tally by_rings(struct device *d, int type, unsigned seq, void (*wait)(struct device *))
{
	struct tally t = { 0, 0 };
	char req[64];
	int error = device_send(d, request(req, type, NLM_F_DUMP, seq, type == RTM_GETROUTE ? 12 : 16), NULL);
	CHECK(!error, "kick: %s", strerror(error));
	while (!count(&t, buf, device_next(d, buf, sizeof buf, wait), seq))
		;
	return t;
}

static struct tally by_socket(int type, unsigned seq)
{
	struct tally t = { 0, 0 };
	char req[64];
	struct nlmsghdr *n = request(req, type, NLM_F_DUMP, seq, type == RTM_GETROUTE ? 12 : 16);
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	ssize_t len;
	CALL(send(s, n, n->nlmsg_len, 0));
	do
		CALL(len = recv(s, buf, sizeof buf, 0));
	while (!count(&t, buf, len, seq));
	close(s);
	return t;
}

int main(int argc, char **argv)
{
	static const int types[] = { RTM_GETROUTE, RTM_GETLINK, RTM_GETROUTE, RTM_GETLINK };
	void (*wait)(struct device *) = wait_poll;
	struct device d;
	unsigned i;
	CHECK(argc >= 3, "usage: %s NODE poll|level|edge [hold]", argv[0]);
	device_open(&d, argv[1], NETLINK_ROUTE);
	device_rings(&d, 65536, 2, 8192);
	if (strcmp(argv[2], "poll")) {
		struct epoll_event e = { .events = EPOLLIN, .data.fd = d.fd };
		if (!strcmp(argv[2], "edge"))
			e.events |= EPOLLET;
		CALL(epoll_fd = epoll_create1(0));
		CALL(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, d.fd, &e));
		wait = wait_epoll;
	}
	for (i = 0; i < sizeof types / sizeof *types; i++) {
		struct tally ring = by_rings(&d, types[i], i + 1, wait), plain = by_socket(types[i], i + 1);
		CHECK(ring.messages == plain.messages && ring.bytes == plain.bytes,
		      "dump %u: %lu messages of %lu bytes through the rings, %lu of %lu from a socket", i, ring.messages,
		      ring.bytes, plain.messages, plain.bytes);
		printf("%s %lu messages, %lu bytes\n", types[i] == RTM_GETROUTE ? "routes" : "links", ring.messages, ring.bytes);
	}
	fflush(stdout);
	if (argc > 3)
		pause();
	return 0;
}
