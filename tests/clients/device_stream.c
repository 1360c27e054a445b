/* device_stream NODE ENDPOINTS SECONDS: a process beside this one sends to ENDPOINTS endpoints of the node by a plain socket, in
 * bursts. Each message has to come once, in order and whole, to the last one that was sent. Prints "ready" once messages come, and
 * at the end how many came and the longest time without any, in microseconds. */
#include "device.h"
#include <signal.h>
#include <sys/prctl.h>

enum { MOST = 64, BURST = 8, SIZE = 200, LAST = 78 };
static struct device ends[MOST];
static uint32_t ports[MOST], next[MOST];
static int count, left;

/* Fills a message: each byte follows from its number and its endpoint. */
static size_t make(char *buf, int type, int end, uint32_t number)
{
	struct nlmsghdr *n = (void *)buf;
	*n = (struct nlmsghdr){ SIZE, type, 0, number, 0 };
	memset(buf + sizeof *n, (char)(number * 7 + end), SIZE - sizeof *n);
	return SIZE;
}

static void send_all(volatile int *stop)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK), i, b, last;
	uint32_t number = 0;
	char buf[SIZE];
	CALL(fd);
	do {
		last = *stop;
		for (b = 0; b < BURST; b++, number++)
			for (i = 0; i < count; i++) {
				struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = ports[i] };
				int type = last && b == BURST - 1 ? LAST : LAST - 1;
				/* A receiver without room is waited for. */
				CALL(sendto(fd, buf, make(buf, type, i, number), 0, (struct sockaddr *)&to, sizeof to));
			}
		usleep(500);
	} while (!last);
	_exit(0);
}

static void take(int i)
{
	struct device *d = &ends[i];
	char buf[4096], should[SIZE];
	for (;;) {
		unsigned status = status_of(frame_at(d, 0, d->rx));
		const struct nlmsghdr *n = (void *)buf;
		size_t len;
		if (status != NL_MMAP_STATUS_VALID && status != NL_MMAP_STATUS_COPY)
			return;
		len = device_next(d, buf, sizeof buf, wait_poll);
		CHECK(len == SIZE && n->nlmsg_seq == next[i], "endpoint %d: %zu bytes, message %u instead of %u", i, len, n->nlmsg_seq, next[i]);
		make(should, n->nlmsg_type, i, next[i]++);
		CHECK(!memcmp(buf, should, SIZE), "endpoint %d: message %u has other bytes", i, n->nlmsg_seq);
		left -= n->nlmsg_type == LAST;
	}
}

int main(int argc, char **argv)
{
	double end, before, silence = 0, t;
	unsigned long got = 0;
	struct epoll_event e, events[MOST];
	volatile int *stop;
	pid_t parent = getpid();
	int epoll, i, n;
	CHECK(argc == 4 && (count = atoi(argv[2])) >= 1 && count <= MOST, "usage: %s NODE 1..%d SECONDS", argv[0], MOST);
	CALL(epoll = epoll_create1(EPOLL_CLOEXEC));
	for (i = 0; i < count; i++) {
		struct sockaddr_nl name;
		device_open(&ends[i], argv[1], NETLINK_USERSOCK);
		CALL(ioctl(ends[i].fd, NLMMAP_GETSOCKNAME, &name));
		ports[i] = name.nl_pid;
		device_rings(&ends[i], 16384, 1, 1024);
		/* One way and the other. */
		e = (struct epoll_event){ .events = EPOLLIN | (i & 1 ? EPOLLET : 0), .data.u32 = i };
		CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[i].fd, &e));
	}
	stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(stop != MAP_FAILED, "mmap: %s", strerror(errno));
	switch (fork()) {
	case -1:
		DIE("fork: %s", strerror(errno));
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (i = 0; i < count; i++)
			close(ends[i].fd);
		if (getppid() == parent)
			send_all(stop);
		_exit(1);
	}
	end = now() + atof(argv[3]);
	before = now();
	for (left = count; left > 0;) {
		n = epoll_wait(epoll, events, MOST, 20000);
		CHECK(n > 0, "epoll_wait: %d, nothing within 20 s after %lu wake-ups", n, got);
		t = now();
		if (!got++) {
			puts("ready");
			fflush(stdout);
		} else if (t - before > silence) {
			silence = t - before;
		}
		before = t;
		*stop = t > end;
		for (i = 0; i < n; i++)
			take(events[i].data.u32);
	}
	for (got = i = 0; i < count; i++)
		got += next[i];
	printf("messages %lu silence_us %.0f\n", got, silence * 1e6);
	return 0;
}
