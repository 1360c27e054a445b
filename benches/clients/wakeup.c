/* wakeup.c WAY COUNT: COUNT messages over NETLINK_USERSOCK, each to a client that is asleep; the time from just before the
 * send until the message is in the client's hands. recv and ring sleep in recv and poll. WAY may be calls as well: the system calls
 * that the library makes for a ring, and nothing else. */
#include "way.h"

static uint32_t seen, *ns;

struct stamped {
	struct nlmsghdr n;
	uint64_t sent;
};

static inline void take(struct chan *c, const char *m, size_t len)
{
	struct stamped s;
	(void)c;
	CHECK(len == sizeof s, "a message of %zu bytes", len);
	memcpy(&s, m, sizeof s);
	CHECK(s.n.nlmsg_seq == seen, "message %u instead of %u", s.n.nlmsg_seq, seen);
	ns[seen++] = now() - s.sent;
}

static void send_all(uint32_t port, uint32_t count)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = port };
	int fd = outside_socket(NETLINK_USERSOCK);
	CALL(fd);
	for (uint32_t i = 0; i < count; i++) {
		struct stamped s = { { sizeof s, 77, 0, i, 0 }, 0 };
		usleep(300 + i * 37 % 200);
		s.sent = now();
		CALL(sendto(fd, &s, sizeof s, 0, (struct sockaddr *)&to, sizeof to));
	}
	_exit(0);
}

/* Sleeps, asks whose socket it is, and receives up to two messages with their senders' names and credentials. */
static void calls_each(struct chan *c)
{
	static char bytes[2][2048];
	static struct sockaddr_nl names[2];
	static uint64_t control[2][8];
	struct iovec iov[2];
	struct mmsghdr msgs[2] = { 0 };
	uint64_t cookie;
	socklen_t len = sizeof cookie;
	int n;
	wait_for(c->fd);
	CALL(getsockopt(c->fd, SOL_SOCKET, SO_COOKIE, &cookie, &len));
	for (int i = 0; i < 2; i++) {
		iov[i] = (struct iovec){ bytes[i], sizeof bytes[i] };
		msgs[i].msg_hdr = (struct msghdr){ &names[i], sizeof names[i], &iov[i], 1, control[i], sizeof control[i], 0 };
	}
	n = recvmmsg(c->fd, msgs, 2, MSG_DONTWAIT, NULL);
	CHECK(n > 0, "recvmmsg: %s", strerror(errno));
	for (int i = 0; i < n; i++)
		take(c, bytes[i], msgs[i].msg_len);
}

int main(int argc, char **argv)
{
	volatile uint64_t *go = shared_words();
	struct chan c;
	struct meter m;
	uint32_t count;
	pid_t sender;
	CHECK(argc == 3, "usage: wakeup WAY COUNT");
	int calls = !strcmp(argv[1], "calls"), on = 1;
	c = chan_parse(calls ? "poll" : argv[1]);
	count = number(argv[2]);
	ns = calloc(count, sizeof *ns);
	CHECK(ns, "out of memory");
	chan_socket(&c, NETLINK_USERSOCK);
	if (calls)
		CALL(setsockopt(c.fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
	sender = helper();
	if (sender == 0) {
		while (!*go)
			usleep(100);
		send_all(c.port, count);
	}
	counter_open();
	chan_rings(&c, 0, 0);
	meter_start(&m);
	*go = 1;
	while (seen < count) {
		if (calls)
			calls_each(&c);
		else
			CHAN_EACH(&c, take);
	}
	if (counter < 0)
		latencies(ns, count, clock_of(CLOCK_PROCESS_CPUTIME_ID) - m.cpu);
	else
		report(&m, &c, count);
	join_helper(sender);
	return 0;
}
