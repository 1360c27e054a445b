/* wakeup.c WAY COUNT: COUNT messages over NETLINK_USERSOCK, each to a client that is asleep; the time from just before the
 * send until the message is in the client's hands. recv and ring sleep in recv and poll. */
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

int main(int argc, char **argv)
{
	volatile uint64_t *go = shared_words();
	struct chan c;
	struct meter m;
	uint32_t count;
	pid_t sender;
	CHECK(argc == 3, "usage: wakeup WAY COUNT");
	c = chan_parse(argv[1]);
	count = number(argv[2]);
	ns = calloc(count, sizeof *ns);
	CHECK(ns, "out of memory");
	chan_socket(&c, NETLINK_USERSOCK);
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
	while (seen < count)
		CHAN_EACH(&c, take);
	if (counter < 0)
		latencies(ns, count, clock_of(CLOCK_PROCESS_CPUTIME_ID) - m.cpu);
	else
		report(&m, &c, count);
	join_helper(sender);
	return 0;
}
