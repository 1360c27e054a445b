/* flood.c WAY SIZE COUNT PACE: COUNT messages of SIZE bytes between two processes over NETLINK_USERSOCK.
 *
 * PACE flood   the sender sends as fast as it can, by sendmmsg
 *      single  one sendto a message, with 2 microseconds of work between: the sender is the limit
 *      stored  as flood, but all of it is in the socket before the first is received: the receiver alone is at work */
#include "way.h"

static uint64_t seen, sum;

/* The work on a message: its number is the next one, and each of its cache lines is read. */
static inline void take(struct chan *c, const char *m, size_t len)
{
	const struct nlmsghdr *n = (const void *)m;
	(void)c;
	CHECK(len == n->nlmsg_len && n->nlmsg_seq == (uint32_t)seen, "message %u of %zu bytes instead of %lu",
	      n->nlmsg_seq, len, seen);
	for (size_t i = sizeof *n; i < len; i += 64)
		sum += (unsigned char)m[i];
	seen++;
}

static void send_all(uint32_t port, size_t size, uint64_t count, int single)
{
	static char data[VLEN][BUF];
	static struct iovec iov[VLEN];
	static struct mmsghdr msgs[VLEN];
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = port };
	int fd = outside_socket(NETLINK_USERSOCK), batch = single ? 1 : VLEN;
	CALL(fd);
	for (int i = 0; i < VLEN; i++) {
		memset(data[i], i, size);
		iov[i] = (struct iovec){ data[i], size };
		msgs[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &iov[i],
						   .msg_iovlen = 1 };
	}
	for (uint64_t done = 0; done < count;) {
		int n = count - done < (uint64_t)batch ? (int)(count - done) : batch;
		for (int i = 0; i < n; i++)
			*(struct nlmsghdr *)data[i] = (struct nlmsghdr){ size, 77, 0, done + i, 0 };
		for (int i = 0; i < n;) {
			int r = sendmmsg(fd, msgs + i, n - i, 0);
			CHECK(r > 0, "sendmmsg: %s", strerror(errno));
			i += r;
		}
		if (single)
			spin(2000);
		done += n;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	volatile uint64_t *go = shared_words();
	struct chan c;
	struct meter m;
	size_t size;
	uint64_t count;
	int single, stored;
	pid_t sender;
	CHECK(argc == 5, "usage: flood WAY SIZE COUNT flood|single|stored");
	c = chan_parse(argv[1]);
	size = number(argv[2]);
	count = number(argv[3]);
	single = !strcmp(argv[4], "single");
	CHECK(size >= sizeof(struct nlmsghdr) && size <= SLOT, "a size from 16 to %d", SLOT);
	chan_socket(&c, NETLINK_USERSOCK);
	sender = helper();
	if (sender == 0) {
		while (!*go)
			usleep(100);
		send_all(c.port, size, count, single);
	}
	counter_open();
	chan_rings(&c, 0, 0);
	stored = !strcmp(argv[4], "stored");
	if (stored) {
		*go = 1;
		join_helper(sender);
	}
	meter_start(&m);
	*go = 1;
	while (seen < count)
		CHAN_EACH(&c, take);
	report(&m, &c, seen);
	if (!stored)
		join_helper(sender);
	return sum == 1; /* keeps the sum alive */
}
