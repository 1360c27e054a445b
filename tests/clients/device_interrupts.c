/* device_interrupts NODE TIMES: kicks at a receiver that never has room, each ended by a signal that comes at another moment of it: before
 * the daemon has read the request, while it hands it on, while the worker has it. Two threads share the open file, so that one's kick is
 * behind the other's. A kick that does not hear of its signal never ends, and nor does its process. */
#include "device.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

enum { THREADS = 2 };

static struct device d;
static struct sockaddr_nl to = { .nl_family = AF_NETLINK };
static int times;

static void nothing(int signal)
{
	(void)signal;
}

static void *kicks(void *arg)
{
	struct sigevent to_me = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	unsigned random = (unsigned)(uintptr_t)arg * 2654435761u + 1;
	timer_t timer;
	to_me._sigev_un._tid = syscall(SYS_gettid);
	CALL(timer_create(CLOCK_MONOTONIC, &to_me, &timer));
	for (int i = 0; i < times; i++) {
		struct nlmmap_kick kick = { .dest = to, .dest_len = sizeof to };
		struct itimerspec soon = { { 0 }, { 0 } };
		double begin = now();
		int n;
		random = random * 1664525u + 1013904223u;
		soon.it_value.tv_nsec = 1000 + (random >> 8) % 300000;
		/* One may come before the call: then the next does not. */
		soon.it_interval.tv_nsec = 2000000;
		CALL(timer_settime(timer, 0, &soon, NULL));
		n = ioctl(d.fd, NLMMAP_KICK, &kick);
		CHECK(n == -1 && errno == EINTR, "kick %d gave %d: %s", i, n, strerror(errno));
		CHECK(now() - begin < 5, "kick %d ended after %.3f s", i, now() - begin);
	}
	timer_delete(timer);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = nothing };
	struct sockaddr_nl name = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof name;
	pthread_t threads[THREADS];
	struct nlmsghdr *n;
	char message[2000];
	int receiver, room = 1;
	CHECK(argc == 3, "usage: %s NODE TIMES", argv[0]);
	times = atoi(argv[2]);
	CALL(sigaction(SIGUSR1, &action, NULL));
	CALL(receiver = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK));
	CALL(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &room, sizeof room));
	CALL(bind(receiver, (struct sockaddr *)&name, sizeof name));
	CALL(getsockname(receiver, (struct sockaddr *)&name, &len));
	to.nl_pid = name.nl_pid;
	device_open(&d, argv[1], NETLINK_USERSOCK);
	device_rings(&d, 1 << 14, 1, 2048);
	n = request(message, 77, 0, 1, 1500);
	/* Until it is full; and the frame that will never be sent. */
	for (int full = 0; full < 2; d.tx++) {
		struct nlmmap_kick kick = { .dest = to, .dest_len = sizeof to | NLMMAP_KICK_DONTWAIT };
		struct nl_mmap_hdr *h = frame_at(&d, d.rx_len, d.tx);
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", d.tx, status_of(h));
		memcpy((char *)h + NL_MMAP_HDRLEN, n, n->nlmsg_len);
		h->nm_len = n->nlmsg_len;
		set_status(h, NL_MMAP_STATUS_VALID);
		if (full || ioctl(d.fd, NLMMAP_KICK, &kick)) {
			CHECK(full || errno == EAGAIN, "kick: %s", strerror(errno));
			full++;
		}
	}
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, kicks, (void *)i), "pthread_create");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("%d kicks interrupted\n", THREADS * times);
	return 0;
}
