/* device_move NODE [wait]: a client changes what it is, again and again, while somebody waits on its open file and messages are in
 * it. Nothing of that is lost. Runs as root. `wait`: begins at a byte of its input, with its rings there. */
#include "device.h"
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

enum { ROUNDS = 200 };

static struct device d;
static unsigned port;
static volatile int ended;

/* A thread of its own credentials: the raw call changes those of the calling thread alone. */
static void become(unsigned id)
{
	CALL(syscall(SYS_setresuid, -1, id, -1));
}

/* Sleeps in poll until there is a frame, takes it, tells: counts up without a gap. */
static void *sleeper(void *arg)
{
	char buf[8192];
	unsigned seq;
	for (seq = 1; seq <= ROUNDS; seq++) {
		size_t len = device_next(&d, buf, sizeof buf, wait_poll);
		struct nlmsghdr *n = (void *)buf;
		CHECK(len == n->nlmsg_len && n->nlmsg_seq == seq, "message %u of %zu bytes, expected %u", n->nlmsg_seq, len, seq);
		__atomic_store_n(&ended, seq, __ATOMIC_RELEASE);
	}
	(void)arg;
	return NULL;
}

int main(int argc, char **argv)
{
	static const unsigned ids[] = { 0, 65534, 0, 65533 };
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	struct nlmmap_state state;
	pthread_t thread;
	socklen_t len = sizeof to;
	char req[64];
	unsigned i;
	CHECK(argc >= 2, "usage: %s NODE [wait]", argv[0]);
	device_open(&d, argv[1], NETLINK_USERSOCK);
	device_rings(&d, 65536, 1, 4096);
	if (argc > 2)
		CHECK(read(0, req, 1) == 1, "no byte");
	CALL(ioctl(d.fd, NLMMAP_GETSOCKNAME, &to));
	port = to.nl_pid;
	CHECK(!pthread_create(&thread, NULL, sleeper, NULL), "pthread_create");
	for (i = 1; i <= ROUNDS; i++) {
		struct nlmsghdr *n = request(req, 77, 0, i, 8);
		become(ids[i % 4]);
		/* To itself, by kick and by write in turns: what it sent as one it hears as another. */
		if (i % 2) {
			int error = device_send(&d, n, &to);
			CHECK(!error, "kick %u: %s", i, strerror(error));
		} else {
			char send[sizeof(struct nlmmap_send) + 64] = { 0 };
			struct nlmmap_send *head = (void *)send;
			head->dest = to;
			head->dest_len = len;
			memcpy(send + sizeof *head, n, n->nlmsg_len);
			CALL(ioctl(d.fd, NLMMAP_SEND(24), send));
		}
		while (__atomic_load_n(&ended, __ATOMIC_ACQUIRE) != (int)i)
			sched_yield();
		CALL(ioctl(d.fd, NLMMAP_STATE, &state));
		CHECK(state.protocol == NETLINK_USERSOCK && state.rings == (NLMMAP_STATE_RX | NLMMAP_STATE_TX), "state");
	}
	pthread_join(thread, NULL);
	puts("moved");
	return 0;
}
