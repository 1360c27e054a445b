/* device_waiters NODE: one thread sleeps on the node while another asks for readiness all the time, whose every question moves
 * what has come into the ring. The sleeper has to be woken for each message: edge- and level-triggered, whether it releases what
 * it has seen or not. Prints the longest it took, in microseconds. */
#include "device.h"
#include <pthread.h>

enum { ROUNDS = 300, KEPT = 24 };
static struct device d;
static int epoll, edge, releases;
static volatile int stop, seen, wakes;

static void *ask(void *unused)
{
	(void)unused;
	while (!stop) {
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		CALL(poll(&p, 1, 0));
	}
	return NULL;
}

/* Looks through the ring after each wake-up, as far as it has not done so. */
static void *sleeper(void *unused)
{
	(void)unused;
	while (!stop) {
		struct epoll_event e;
		int n;
		CALL(n = epoll_wait(epoll, &e, 1, 10000));
		CHECK(n == 1 || stop, "not woken after %d messages (edge %d, releases %d)", seen, edge, releases);
		wakes++;
		for (;;) {
			struct nl_mmap_hdr *h = frame_at(&d, 0, d.rx);
			if (status_of(h) != NL_MMAP_STATUS_VALID)
				break;
			if (releases)
				set_status(h, NL_MMAP_STATUS_UNUSED);
			d.rx++;
			__atomic_fetch_add(&seen, 1, __ATOMIC_RELEASE);
		}
	}
	return NULL;
}

static double run(const char *node)
{
	struct nlmsghdr message = { sizeof message, 77, 0, 0, 0 };
	struct sockaddr_nl name, to = { .nl_family = AF_NETLINK };
	struct epoll_event e = { .events = EPOLLIN | (edge ? EPOLLET : 0) };
	int sender = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK), i, rounds = releases ? ROUNDS : KEPT;
	double longest = 0;
	pthread_t threads[2];
	CALL(sender);
	device_open(&d, node, NETLINK_USERSOCK);
	CALL(ioctl(d.fd, NLMMAP_GETSOCKNAME, &name));
	to.nl_pid = name.nl_pid;
	device_rings(&d, 65536, 1, 2048);
	CALL(epoll = epoll_create1(EPOLL_CLOEXEC));
	CALL(epoll_ctl(epoll, EPOLL_CTL_ADD, d.fd, &e));
	stop = seen = wakes = 0;
	CHECK(!pthread_create(&threads[0], NULL, sleeper, NULL) && !pthread_create(&threads[1], NULL, ask, NULL), "threads");
	for (i = 0; i < rounds; i++) {
		double before = now();
		CALL(sendto(sender, &message, sizeof message, 0, (struct sockaddr *)&to, sizeof to));
		while (__atomic_load_n(&seen, __ATOMIC_ACQUIRE) == i) {
			CHECK(now() - before < 20, "nobody woke for message %d (edge %d, releases %d)", i, edge, releases);
			usleep(20);
		}
		if (now() - before > longest)
			longest = now() - before;
		/* Asleep again, more or less. */
		usleep(i % 7 * 100);
	}
	/* A level-triggered wait for frames that stay does not sleep at all. */
	CHECK(!edge || wakes <= 2 * rounds + 5, "%d wake-ups for %d messages (releases %d)", wakes, rounds, releases);
	stop = 1;
	CALL(sendto(sender, &message, sizeof message, 0, (struct sockaddr *)&to, sizeof to));
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	close(epoll);
	munmap(d.rings, d.rx_len + d.tx_len);
	close(d.fd);
	close(sender);
	return longest;
}

int main(int argc, char **argv)
{
	double longest = 0;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	for (edge = 0; edge < 2; edge++)
		for (releases = 0; releases < 2; releases++) {
			double took = run(argv[1]);
			longest = took > longest ? took : longest;
		}
	printf("longest_us %.0f\n", longest * 1e6);
	return 0;
}
