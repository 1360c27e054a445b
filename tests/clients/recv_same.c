/* What receives answer on a socket with rings is what they answer on one without: one script on both, line by line. */
#include "msg.h"
#include <sys/time.h>

enum { LINES = 100, WIDTH = 160 };

static char said[2][LINES][WIDTH];
static int which, line, fd, peer;
static uint32_t port;
static char buf[256];

#define SAY(...) do { \
	CHECK(line < LINES, "a longer script than foreseen"); \
	snprintf(said[which][line++], WIDTH, __VA_ARGS__); \
} while (0)
#define SHOW(call) do { \
	long n_; \
	errno = 0; \
	n_ = (call); \
	SAY("%s: %ld %s", #call, n_, n_ < 0 ? strerror(errno) : errno ? "and errno changed" : ""); \
} while (0)

static void put(uint32_t seq)
{
	char m[64];
	CHECK_CALL(plain_send(peer, msg_user(m, 20, seq), 20, port, 0));
}

static void limit(long ms)
{
	struct timeval t = { 0, ms * 1000 };
	CHECK_CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
}

static struct mmsghdr m[4];

static int many(int flags, struct timespec *t)
{
	static struct iovec v = { buf, sizeof buf };
	int i;
	memset(m, 0, sizeof m);
	for (i = 0; i < 4; i++)
		m[i].msg_hdr = (struct msghdr){ .msg_iov = &v, .msg_iovlen = 1 };
	return recvmmsg(fd, m, 4, flags, t);
}

/* What is left of a time limit, in tenths of a second. */
static void left(const struct timespec *t)
{
	SAY("left: %ld", t->tv_sec * 10 + (t->tv_nsec + 99999999) / 100000000);
}

static void script(void)
{
	struct timespec t = { 0, 10000000 };
	struct iovec none[2] = { { buf, 0 }, { buf, 0 } }, two[2] = { { buf, 5 }, { buf + 5, 100 } };
	volatile int minus = -1, most = 5000; /* the compiler knows better than to call it so */
	struct msghdr big = { .msg_iov = two, .msg_iovlen = 5000 };
	limit(40);
	put(1);
	SHOW(recv(fd, buf, 100, MSG_OOB));
	SHOW(read(fd, buf, 0));
	SHOW(readv(fd, none, 2));
	SHOW(readv(fd, none, 0));
	SHOW(readv(fd, none, minus));
	SHOW(readv(fd, none, most));
	SHOW(recvmsg(fd, &big, 0));
	SHOW(recv(fd, buf, 0, MSG_PEEK));
	SHOW(recv(fd, buf, 0, MSG_PEEK | MSG_TRUNC));
	SHOW(readv(fd, two, 2));
	put(2);
	SHOW(recv(fd, buf, 0, 0));
	SHOW(recv(fd, buf, sizeof buf, 0));
	put(3);
	SHOW(recv(fd, (void *)8, 100, MSG_PEEK));
	SHOW(recv(fd, (void *)8, 100, 0));
	SHOW(recv(fd, buf, sizeof buf, 0));
	put(4);
	SHOW(recv(fd, buf, 10, MSG_TRUNC | MSG_WAITALL | MSG_ERRQUEUE));
	SHOW(recv(fd, (void *)8, 100, 0));
	SHOW(shutdown(fd, SHUT_RD));
	/* recvmmsg's own limit */
	SHOW(many(0, &t));
	left(&t);
	t = (struct timespec){ 5, 0 };
	put(5);
	SHOW(many(0, &t));
	SAY("flags %x namelen %u len %u", m[0].msg_hdr.msg_flags, m[0].msg_hdr.msg_namelen, m[0].msg_len);
	left(&t);
	t = (struct timespec){ 0, 1 };
	put(6);
	put(7);
	SHOW(many(0, &t));
	left(&t);
	SHOW(many(MSG_DONTWAIT, NULL));
	t.tv_nsec = -1;
	SHOW(many(MSG_DONTWAIT, &t));
	t = (struct timespec){ -1, 0 };
	SHOW(many(MSG_DONTWAIT, &t));
	t = (struct timespec){ 0, 1000000000 };
	SHOW(many(MSG_DONTWAIT, &t));
	SHOW(recvmmsg(fd, m, 0, 0, NULL));
	SHOW(many(MSG_OOB, NULL));
	SHOW(many(MSG_ERRQUEUE, NULL));
	put(8);
	SHOW(many(MSG_WAITFORONE, NULL));
	put(9);
	SHOW(many(MSG_PEEK, NULL));
	SHOW(many(MSG_WAITFORONE | MSG_PEEK, NULL));
	SHOW(recv(fd, buf, sizeof buf, 0));
	SHOW(many(MSG_WAITFORONE, NULL));
	/* the limit as the kernel rounds it */
	limit(1);
	SHOW(recv(fd, buf, sizeof buf, 0));
}

int main(void)
{
	/* frames that no message fits */
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(4096, 1, 32), NO_RING);
	int i, lines[2];
	peer = plain_open(NETLINK_ROUTE);
	for (which = 0; which < 2; which++) {
		fd = which ? s.fd : plain_open(NETLINK_ROUTE);
		port = port_of(fd);
		line = 0;
		script();
		lines[which] = line;
	}
	for (i = 0; i < lines[0]; i++)
		CHECK(!strcmp(said[0][i], said[1][i]), "\n  plain: %s\n  ring:  %s", said[0][i], said[1][i]);
	ok();
	return 0;
}
