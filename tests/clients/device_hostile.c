/* device_hostile NODE: everything a client should not do. It must cost nobody anything but itself. */
#include "device.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static unsigned long long seed = 42;
static unsigned rnd(void)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return seed >> 33;
}

static unsigned char junk[1 << 16];

static void garbage_ioctls(const char *node)
{
	int i, fd;
	CALL(fd = open(node, O_RDWR | O_NONBLOCK));
	for (i = 0; i < 20000; i++) {
		unsigned size = rnd() % 64, cmd = (rnd() & 3) << 30 | size << 16 | 0xDA << 8 | rnd() % 32;
		unsigned *p = (unsigned *)junk;
		unsigned k;
		for (k = 0; k < 32; k++)
			p[k] = rnd() % 3 ? rnd() % 40 : rnd() << rnd() % 4;
		/* Not the real sizes only: those as well. */
		if (rnd() % 2) {
			static const unsigned real[] = { NLMMAP_SOCKET, NLMMAP_BIND, NLMMAP_CONNECT, NLMMAP_ADD_MEMBERSHIP,
				NLMMAP_SETSOCKOPT, NLMMAP_GETSOCKOPT, NLMMAP_RX_RING, NLMMAP_TX_RING, NLMMAP_MEMORY, NLMMAP_KICK };
			cmd = real[rnd() % 10];
		}
		ioctl(fd, cmd, junk);
		if (i % 500 == 0) {
			close(fd);
			CALL(fd = open(node, O_RDWR | O_NONBLOCK));
		}
	}
	close(fd);
}

static void wrong_arguments(const char *node)
{
	struct nl_mmap_req good = { 65536, 1, 8192, 8 }, bad = { 4097, 1, 4097, 1 };
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	struct nlmmap_kick kick = { .dest_len = 5 };
	struct nlmmap_map_info info;
	int fd;
	CALL(fd = open(node, O_RDWR | O_NONBLOCK));
#define FAILS(call, error) CHECK((call) < 0 && errno == (error), "%s: %s, expected %s", #call, strerror(errno), #error)
	FAILS(ioctl(fd, NLMMAP_RX_RING, &good), ENOTSOCK);
	FAILS(ioctl(fd, NLMMAP_KICK, &kick), EINVAL);
	FAILS(write(fd, junk, 16), ENOTSOCK);
	FAILS(read(fd, junk, 16), ENOTSOCK);
	FAILS(ioctl(fd, NLMMAP_SOCKET, (&(struct nlmmap_socket){ SOCK_STREAM, 0 })), ESOCKTNOSUPPORT);
	FAILS(ioctl(fd, NLMMAP_SOCKET, (&(struct nlmmap_socket){ SOCK_RAW, 4000000000u })), EPROTONOSUPPORT);
	CALL(ioctl(fd, NLMMAP_SOCKET, &s));
	FAILS(ioctl(fd, NLMMAP_SOCKET, &s), EBUSY);
	FAILS(ioctl(fd, NLMMAP_RX_RING, &bad), EINVAL);
	FAILS(ioctl(fd, NLMMAP_MAP_INFO, &info), EINVAL);
	FAILS(ioctl(fd, NLMMAP_SETSOCKOPT, (&(struct nlmmap_sockopt){ SOL_SOCKET, SO_ATTACH_FILTER, 1 })), ENOPROTOOPT);
	FAILS(ioctl(fd, _IO(0xDA, 1), 0), ENOTTY);
	FAILS(read(fd, junk, sizeof junk), EAGAIN);
	CALL(ioctl(fd, NLMMAP_RX_RING, &good));
	FAILS(ioctl(fd, NLMMAP_RX_RING, &good), EBUSY);
	FAILS(ioctl(fd, NLMMAP_TX_RING, (&(struct nl_mmap_req){ 1 << 30, 4, 1 << 30, 4 })), ENOMEM);
	FAILS(ioctl(fd, NLMMAP_RX_RING, (&(struct nl_mmap_req){ 0, 0, 0, 1 })), EINVAL);
	CALL(ioctl(fd, NLMMAP_RX_RING, (&(struct nl_mmap_req){ 0, 0, 0, 0 })));
	CALL(ioctl(fd, NLMMAP_TX_RING, &good));
	CALL(ioctl(fd, NLMMAP_RX_RING, &good));
	CALL(ioctl(fd, NLMMAP_MAP_INFO, &info));
	FAILS(ioctl(fd, NLMMAP_TX_RING, (&(struct nl_mmap_req){ 0, 0, 0, 0 })), EBUSY);
	close(fd);
}

static void sizes(const char *node)
{
	size_t size = 8 << 20;
	char *huge = calloc(1, size);
	struct device d;
	struct stat st;
	pid_t pid;
	int status;
	device_open(&d, node, NETLINK_ROUTE);
	CHECK(write(d.fd, huge, size) < 0 && errno == EMSGSIZE, "a write of 8 MiB: %s", strerror(errno));
	CHECK(write(d.fd, huge, 1 << 20) < 0, "a write of 1 MiB");
	write(d.fd, huge, 0);
	write(d.fd, huge, 3);
	free(huge);
	device_rings(&d, 65536, 1, 8192);
	CHECK(ftruncate(d.fd, 0) < 0, "the ring file was truncated");
	CHECK(fallocate(d.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0, "a hole was punched");
	CALL(fstat(d.fd, &st));
	/* A device node lies in a file system of its own: root may change its mode. */
	CHECK(!S_ISREG(st.st_mode) || fchmod(d.fd, 0777) < 0, "the mode was changed");
	CALL(pid = fork());
	if (pid == 0) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, d.fd, 0);
		if (p == MAP_FAILED)
			_exit(1);
		signal(SIGBUS, SIG_DFL);
		p[(1 << 20) - 1] = 1;
		_exit(0);
	}
	CALL(waitpid(pid, &status, 0));
	CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) || WEXITSTATUS(status) == 1,
	      "a mapping larger than the rings: status %#x", status);
	close(d.fd);
}

static volatile int stop;

static void *scribble(void *arg)
{
	struct device *d = arg;
	unsigned *words = (unsigned *)d->rings;
	unsigned i;
	while (!stop) {
		for (i = 0; i < 256; i++)
			words[rnd() % ((d->rx_len + d->tx_len) / 4)] = rnd() % 2 ? rnd() % 6 : rnd();
		/* On one processor the others want to run as well. */
		sched_yield();
	}
	return NULL;
}

static void rings_under_fire(const char *node)
{
	struct device d;
	pthread_t thread;
	struct nlmmap_kick kick;
	int i;
	device_open(&d, node, NETLINK_USERSOCK);
	device_rings(&d, 65536, 1, 256);
	CALL(fcntl(d.fd, F_SETFL, O_NONBLOCK));
	CHECK(!pthread_create(&thread, NULL, scribble, &d), "pthread_create");
	for (i = 0; i < 5000; i++) {
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		memset(&kick, 0, sizeof kick);
		ioctl(d.fd, NLMMAP_KICK, &kick);
		poll(&p, 1, 0);
		if (read(d.fd, junk, sizeof junk) < 0)
			CHECK(errno == EAGAIN || errno == ENOBUFS, "read: %s", strerror(errno));
	}
	stop = 1;
	pthread_join(thread, NULL);
	close(d.fd);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	garbage_ioctls(argv[1]);
	wrong_arguments(argv[1]);
	sizes(argv[1]);
	rings_under_fire(argv[1]);
	puts("still standing");
	return 0;
}
