/* Messages that no frame holds come by COPY: whole, in order, with the right nm_len, name and
 * flags, through every call that receives. argv[1]: recv, recvfrom, recvmsg, recvmmsg, read, readv,
 * many (recvmmsg of several), peek, trunc, dontwait, timeo, blocking, between (VALID and COPY mixed). */
#include "msg.h"
#include <sys/time.h>

enum { FRAME = 512, FRAMES = 16 };
static struct sock s;
static int sender;
static uint32_t sender_port;
static char buf[262144];
static const size_t sizes[] = { 489, 500, 1000, 4096, 5000, 16384, 40000, 65536, 100000 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static void feed(size_t len, uint32_t seq)
{
	static char out[262144];
	CHECK(plain_send(sender, msg_user(out, len, seq), len, s.port, 0) == (ssize_t)len, "send of %zu bytes: %s",
	      len, strerror(errno));
}

/* The frame at the head must announce `len` bytes by COPY. */
static struct nl_mmap_hdr *announced(size_t len)
{
	struct nl_mmap_hdr *h = head(&s.rx);
	struct pollfd p = { s.fd, POLLIN, 0 };
	CHECK(poll(&p, 1, 2000) == 1 && p.revents == POLLIN, "no POLLIN for a COPY message");
	CHECK(status_of(h) == NL_MMAP_STATUS_COPY, "a message of %zu bytes: status %u, not COPY", len, status_of(h));
	CHECK(h->nm_len == len, "COPY frame says %u bytes of %zu", h->nm_len, len);
	return h;
}

static void release(struct nl_mmap_hdr *h)
{
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&s.rx);
}

static void check_name(const struct sockaddr_nl *a, socklen_t len)
{
	CHECK(len == sizeof *a, "source address of %u bytes", len);
	CHECK(a->nl_family == AF_NETLINK && a->nl_pid == sender_port && a->nl_groups == 0,
	      "source address: family %u port %u groups %x", a->nl_family, a->nl_pid, a->nl_groups);
}

static ssize_t receive(const char *how, size_t room)
{
	struct sockaddr_nl a;
	socklen_t alen = sizeof a;
	/* Three pieces with an empty one in between: vectors need not be one buffer. */
	struct iovec v[4] = { { buf, 7 }, { NULL, 0 }, { buf + 7, 93 }, { buf + 100, room - 100 } };
	char control[64];
	struct msghdr m = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = v, .msg_iovlen = 4,
			    .msg_control = control, .msg_controllen = sizeof control, .msg_flags = 0x7777 };
	ssize_t r;
	memset(&a, 0xee, sizeof a);
	if (!strcmp(how, "recv"))
		return recv(s.fd, buf, room, 0);
	if (!strcmp(how, "read"))
		return read(s.fd, buf, room);
	if (!strcmp(how, "readv"))
		return readv(s.fd, v, 4);
	if (!strcmp(how, "recvfrom")) {
		r = recvfrom(s.fd, buf, room, 0, (struct sockaddr *)&a, &alen);
		if (r >= 0)
			check_name(&a, alen);
		return r;
	}
	if (!strcmp(how, "recvmsg")) {
		r = recvmsg(s.fd, &m, 0);
		if (r < 0)
			return r;
		check_name(&a, m.msg_namelen);
	} else if (!strcmp(how, "recvmmsg")) {
		struct mmsghdr mm[2] = { { .msg_hdr = m }, { .msg_hdr = m } };
		struct timespec t = { 5, 0 };
		int n = recvmmsg(s.fd, mm, 1, 0, &t);
		if (n < 0)
			return n;
		CHECK(n == 1, "recvmmsg of one returned %d", n);
		m = mm[0].msg_hdr;
		r = mm[0].msg_len;
		check_name(&a, m.msg_namelen);
	} else
		FAIL("unknown way of receiving: %s", how);
	CHECK(m.msg_flags == 0, "msg_flags %x", m.msg_flags);
	CHECK(m.msg_controllen == 0, "ancillary data of %zu bytes that nobody asked for", (size_t)m.msg_controllen);
	return r;
}

static void each_size(const char *how)
{
	uint32_t seq = 0, i, held = 0;
	for (i = 0; i < SIZES * 3; i++, seq++) {
		size_t len = sizes[i % SIZES];
		struct nl_mmap_hdr *h;
		ssize_t r;
		feed(len, seq);
		h = announced(len);
		r = receive(how, sizeof buf);
		CHECK(r == (ssize_t)len, "%s gave %zd of %zu bytes (%s)", how, r, len, strerror(errno));
		check_user(buf, r, seq);
		release(h);
	}
	/* Several waiting ones come out in the order of their frames. */
	for (i = 0; i < 8; i++)
		feed(sizes[i % 5], seq + i);
	for (i = 0; i < 8; i++) {
		struct nl_mmap_hdr *h = announced(sizes[i % 5]);
		ssize_t r = receive(how, sizeof buf);
		check_user(buf, r, seq + i);
		if (i % 2)
			release(h);
		else
			held++, advance(&s.rx);
	}
	CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "a ninth message of eight");
	CHECK(held == 4, "held %u", held);
}

/* recvmmsg hands out as many as wait, in order, and stops there. */
static void many(void)
{
	static char room[8][4096];
	struct mmsghdr mm[8];
	struct iovec v[8];
	uint32_t seq = 0, i, round;
	for (round = 0; round < 50; round++) {
		uint32_t waiting = 1 + round % 6;
		int r;
		for (i = 0; i < 8; i++) {
			v[i] = (struct iovec){ room[i], sizeof room[i] };
			mm[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &v[i], .msg_iovlen = 1 } };
		}
		for (i = 0; i < waiting; i++)
			feed(1000 + 300 * i, seq + i);
		announced(1000);
		for (i = 0; i < waiting; i++) {
			long end = now_ms() + 2000;
			while (!ready(&s.rx))
				CHECK(now_ms() < end, "frame %u of %u did not come", i, waiting);
			release(head(&s.rx));
		}
		r = recvmmsg(s.fd, mm, 8, round % 2 ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
		CHECK(r == (int)waiting, "recvmmsg gave %d of %u (%s)", r, waiting, strerror(errno));
		for (i = 0; i < waiting; i++)
			check_user(room[i], mm[i].msg_len, seq++);
	}
}

static void peek(void)
{
	int i;
	feed(2000, 1);
	feed(3000, 2);
	announced(2000);
	for (i = 0; i < 3; i++) {
		CHECK(recv(s.fd, buf, sizeof buf, MSG_PEEK) == 2000, "MSG_PEEK");
		check_user(buf, 2000, 1);
		memset(buf, 0, 2000);
	}
	CHECK(recv(s.fd, buf, 100, MSG_PEEK | MSG_TRUNC) == 2000, "MSG_PEEK | MSG_TRUNC must tell the whole length");
	CHECK(recv(s.fd, buf, sizeof buf, 0) == 2000, "a peeked message is gone");
	check_user(buf, 2000, 1);
	CHECK(recv(s.fd, buf, sizeof buf, 0) == 3000, "the second message is gone");
	check_user(buf, 3000, 2);
}

static void truncated(void)
{
	struct iovec v = { buf, 50 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	feed(2000, 1);
	feed(3000, 2);
	feed(3000, 3);
	announced(2000);
	CHECK(recv(s.fd, buf, 50, MSG_TRUNC) == 2000, "MSG_TRUNC must tell the whole length");
	CHECK(recvmsg(s.fd, &m, 0) == 50, "a short recvmsg must return what fits");
	CHECK(m.msg_flags == MSG_TRUNC, "a short recvmsg must set MSG_TRUNC, flags %x", m.msg_flags);
	CHECK(recv(s.fd, buf, sizeof buf, 0) == 3000, "a truncated message must be gone");
	check_user(buf, 3000, 3);
}

static void dontwait(void)
{
	int i;
	for (i = 0; i < 100; i++) {
		CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "recv of nothing: %s",
		      strerror(errno));
		feed(1000, i);
		CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) == 1000, "recv at once: %s", strerror(errno));
		check_user(buf, 1000, i);
		release(head(&s.rx));
	}
	CHECK_CALL(fcntl(s.fd, F_SETFL, O_NONBLOCK));
	CHECK(recv(s.fd, buf, sizeof buf, 0) == -1 && errno == EAGAIN, "O_NONBLOCK: %s", strerror(errno));
	/* VALID messages are never what recv returns, however many wait. */
	s = ring_open(NETLINK_ROUTE, GEOM(4096, 1, FRAME), NO_RING);
	for (i = 1; i <= 3; i++)
		CHECK_CALL(plain_send(s.fd, msg_ack(buf, i), 16, 0, 0));
	CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "recv returned a VALID message");
	for (i = 1; i <= 3; i++)
		check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 1000), i, 0);
}

static void timeo(void)
{
	struct timeval t = { 0, 80000 };
	long a = now_ms(), b;
	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	CHECK(recv(s.fd, buf, sizeof buf, 0) == -1 && errno == EAGAIN, "SO_RCVTIMEO: %s", strerror(errno));
	b = now_ms();
	CHECK(b - a >= 79 && b - a < 1500, "SO_RCVTIMEO of 80 ms ended after %ld ms", b - a);
	feed(1000, 1);
	CHECK(recv(s.fd, buf, sizeof buf, 0) == 1000, "recv with SO_RCVTIMEO: %s", strerror(errno));
}

/* recv sleeps until a COPY message comes; a VALID one in front does not wake it for good. */
static void blocking(void)
{
	pid_t pid = fork();
	int i;
	CHECK_CALL(pid);
	if (pid == 0) {
		for (i = 0; i < 20; i++) {
			msleep(10);
			feed(1500, i);
		}
		_exit(0);
	}
	for (i = 0; i < 20; i++) {
		CHECK(recv(s.fd, buf, sizeof buf, 0) == 1500, "blocking recv: %s", strerror(errno));
		check_user(buf, 1500, i);
		CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_COPY, "a received message without its frame");
		release(head(&s.rx));
	}
	join_child(pid);
}

/* Frames tell the order of all messages, however they come. */
static void between(void)
{
	uint32_t put = 0, got = 0;
	while (got < 600) {
		while (put < 600 && put - got < FRAMES - 1) {
			feed(put % 3 ? 64 + put % 400 : 600 + put * 7 % 3000, put);
			put++;
		}
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), got++);
	}
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "recv";
	int big = 1 << 20;
	sender = plain_open(NETLINK_USERSOCK);
	sender_port = port_of(sender);
	CHECK_CALL(setsockopt(sender, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big));
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, FRAMES * FRAME / 4096, FRAME), NO_RING);
	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	if (!strcmp(how, "many"))
		many();
	else if (!strcmp(how, "peek"))
		peek();
	else if (!strcmp(how, "trunc"))
		truncated();
	else if (!strcmp(how, "dontwait"))
		dontwait();
	else if (!strcmp(how, "timeo"))
		timeo();
	else if (!strcmp(how, "blocking"))
		blocking();
	else if (!strcmp(how, "between"))
		between();
	else
		each_size(how);
	ok();
	return 0;
}
