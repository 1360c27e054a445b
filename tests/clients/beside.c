/* beside.c SOCKETS: ring sockets beside ordinary ones, in one process, on the same flood at full speed.
 *
 * Messages from another process (unicast, whose sender waits while a receiver is full) and multicasts (which are lost where a
 * receiver is full). Nobody with a ring is told of a loss that did not happen, or would not have happened without rings:
 * fewer or as many ENOBUFS, fewer or as many messages lost, order kept, and whoever lost something was told.
 * As 4.5 did (strict), a full ring loses messages that an ordinary socket keeps; there only the latter half is asked for. */
#include "msg.h"

enum { MOST = 64, SIZE = 128, UNICASTS = 300, FITS = 100, FLOOD = 2000, ROUNDS = 3, GROUP = 3 };

struct reader {
	struct sock s; /* without a ring, only its descriptor and port */
	uint32_t last, got;
	int told;
};

static struct reader readers[2 * MOST];
static struct pollfd polls[2 * MOST];

static void take(struct reader *r, const void *buf, ssize_t n)
{
	uint32_t seq = ((const struct nlmsghdr *)buf)->nlmsg_seq;
	check_user(buf, n, seq);
	CHECK(seq > r->last, "message %u after %u", seq, r->last);
	r->last = seq;
	r->got++;
}

static ssize_t receive(struct reader *r, void *buf)
{
	ssize_t n = recv(r->s.fd, buf, SIZE + 1, MSG_DONTWAIT);
	if (n < 0 && errno == ENOBUFS) {
		r->told++;
		n = recv(r->s.fd, buf, SIZE + 1, MSG_DONTWAIT);
	}
	CHECK(n >= 0 || errno == EAGAIN, "recv: %s", strerror(errno));
	return n;
}

static void read_some(struct reader *r)
{
	char buf[SIZE + 1];
	ssize_t n;
	if (!r->s.map) {
		if ((n = receive(r, buf)) >= 0)
			take(r, buf, n);
		return;
	}
	while (ready(&r->s.rx)) {
		struct nl_mmap_hdr *h = head(&r->s.rx);
		if (status_of(h) == NL_MMAP_STATUS_VALID) {
			take(r, payload(h), h->nm_len);
		} else {
			n = receive(r, buf);
			CHECK(n == (ssize_t)h->nm_len, "COPY of %u bytes, recv gave %zd", h->nm_len, n);
			take(r, buf, n);
		}
		set_status(h, NL_MMAP_STATUS_UNUSED);
		advance(&r->s.rx);
	}
}

/* Waits and reads, until nothing has come for `ms`. */
static void read_all(int n, int ms)
{
	for (;;) {
		int i, ready = poll(polls, n, ms);
		CHECK(ready >= 0, "poll: %s", strerror(errno));
		if (ready == 0)
			return;
		for (i = 0; i < n; i++) {
			int err;
			socklen_t len = sizeof err;
			if (polls[i].revents & POLLERR) {
				CHECK_CALL(getsockopt(polls[i].fd, SOL_SOCKET, SO_ERROR, &err, &len));
				CHECK(err == ENOBUFS, "an error of %d", err);
				readers[i].told++;
			}
			if (polls[i].revents & POLLIN)
				read_some(&readers[i]);
		}
	}
}

/* Of readers from `from` on: who was told, and what was lost of `sent`. */
static int told(int from, int n)
{
	int sum = 0;
	for (int i = from; i < from + n; i++)
		sum += readers[i].told;
	return sum;
}

static uint32_t lost(int from, int n, uint32_t sent)
{
	uint32_t sum = 0;
	for (int i = from; i < from + n; i++) {
		CHECK(readers[i].got == sent || readers[i].told, "%s %d: %u of %u messages, and was not told",
		      from ? "plain socket" : "ring", i - from, readers[i].got, sent);
		sum += sent - readers[i].got;
	}
	return sum;
}

static void forget(int n)
{
	for (int i = 0; i < n; i++)
		readers[i].last = readers[i].got = readers[i].told = 0;
}

static void unicasts(int sockets)
{
	int tx = plain_open(NETLINK_USERSOCK), i;
	pid_t child = fork();
	CHECK_CALL(child);
	if (child == 0) {
		char buf[SIZE];
		for (uint32_t seq = 1; seq <= UNICASTS; seq++)
			for (i = 0; i < 2 * sockets; i++)
				CHECK_CALL(plain_send(tx, msg_user(buf, SIZE, seq), SIZE, readers[i].s.port, 0));
		_exit(0);
	}
	close(tx);
	/* Until all has come, or, where messages may be lost, until nothing comes any more. */
	read_all(2 * sockets, 2000);
	join_child(child);
	CHECK(told(sockets, sockets) == 0, "the kernel told a plain reader of a loss");
	CHECK(lost(sockets, sockets, UNICASTS) == 0, "a plain reader lost messages");
	if (!strict()) {
		CHECK(told(0, sockets) == 0, "%d ENOBUFS, for plain sockets none", told(0, sockets));
		CHECK(lost(0, sockets, UNICASTS) == 0, "messages were lost");
	} else {
		lost(0, sockets, UNICASTS);
	}
	forget(2 * sockets);
}

static void multicasts(int sockets)
{
	int tx = plain_open(NETLINK_USERSOCK), group = GROUP, i, round;
	uint32_t ring, bare;
	for (i = 0; i < 2 * sockets; i++)
		CHECK_CALL(setsockopt(readers[i].s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	/* Now what a socket holds, now far more. */
	for (round = 0; round < ROUNDS; round++) {
		uint32_t count = round % 2 ? FLOOD : FITS, seq;
		char buf[SIZE];
		for (seq = 1; seq <= count; seq++)
			CHECK_CALL(multicast(tx, msg_user(buf, SIZE, seq), SIZE, GROUP));
		read_all(2 * sockets, 300);
		ring = lost(0, sockets, count), bare = lost(sockets, sockets, count);
		CHECK((bare > 0) == (count == FLOOD), "plain sockets lost %u of %u messages", bare, count);
		if (!strict()) {
			CHECK(ring <= bare, "rings lost %u messages, plain sockets %u", ring, bare);
			CHECK(told(0, sockets) <= told(sockets, sockets), "%d ENOBUFS, for plain sockets %d",
			      told(0, sockets), told(sockets, sockets));
		}
		forget(2 * sockets);
	}
}

int main(int argc, char **argv)
{
	int sockets = argc > 1 ? atoi(argv[1]) : 1, i;
	CHECK(sockets >= 1 && sockets <= MOST, "1 to %d sockets", MOST);
	for (i = 0; i < sockets; i++)
		readers[i].s = ring_open(NETLINK_USERSOCK, GEOM(4096, 16, 512), NO_RING);
	for (; i < 2 * sockets; i++) {
		readers[i].s.fd = plain_open(NETLINK_USERSOCK);
		readers[i].s.port = port_of(readers[i].s.fd);
	}
	for (i = 0; i < 2 * sockets; i++)
		polls[i] = (struct pollfd){ readers[i].s.fd, POLLIN, 0 };
	unicasts(sockets);
	multicasts(sockets);
	ok();
	return 0;
}
