/* device_greedy NODE WHAT [N]: takes all it can get, says how much that was and by what error it ended, and holds it.
 * rings N   receive rings of N MiB each, every page written
 * opens     open files with a socket each
 * refused N opens N times, by all ways that are refused, as fast as it can
 * judged N  writes N messages of 400 KiB of attributes, where policy looks at each; of 120 KiB to a character device, which takes no
 *           longer ones */
#include "device.h"
#include <sys/resource.h>

static int socket_on(const char *node)
{
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_ROUTE };
	int fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		CALL(ioctl(fd, NLMMAP_SOCKET, &s));
	return fd;
}

static void hold(unsigned got)
{
	printf("got %u then %s\n", got, strerrorname_np(errno));
	fflush(stdout);
	pause();
}

int main(int argc, char **argv)
{
	struct rlimit most = { 65536, 65536 };
	unsigned n = argc > 3 ? atoi(argv[3]) : 0, got;
	int fd;
	CHECK(argc >= 3, "usage: %s NODE rings|opens|refused|judged [N]", argv[0]);
	setrlimit(RLIMIT_NOFILE, &most);
	if (!strcmp(argv[2], "rings")) {
		struct nl_mmap_req req = { 1 << 20, n, 1 << 16, n << 4 };
		struct nlmmap_map_info info;
		for (got = 0; got < 1000; got++) {
			size_t at;
			char *ring;
			CALL(fd = socket_on(argv[1]));
			if (ioctl(fd, NLMMAP_RX_RING, &req))
				break;
			CALL(ioctl(fd, NLMMAP_MAP_INFO, &info));
			ring = mmap(NULL, info.rx_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (info.how != NLMMAP_MAP_NODE)
				continue;
			CHECK(ring != MAP_FAILED, "mmap: %s", strerror(errno));
			for (at = 64; at < info.rx_len; at += 4096)
				ring[at] = 1;
			munmap(ring, info.rx_len);
		}
		hold(got);
	} else if (!strcmp(argv[2], "opens")) {
		for (got = 0; (fd = socket_on(argv[1])) >= 0; got++)
			;
		hold(got);
	} else if (!strcmp(argv[2], "judged")) {
		static char message[400 << 10];
		struct nlmsghdr *h = request(message, RTM_GETLINK, 0, 1, sizeof(struct ifinfomsg));
		size_t at;
		for (at = NLMSG_LENGTH(sizeof(struct ifinfomsg)); at < sizeof message; at += 4)
			*(struct nlattr *)(message + at) = (struct nlattr){ 4, IFLA_IFNAME };
		h->nlmsg_len = sizeof message;
		CALL(fd = socket_on(argv[1]));
		CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
		if (write(fd, message, h->nlmsg_len) < 0 && errno == EMSGSIZE)
			h->nlmsg_len = 120 << 10;
		while (n--) {
			/* Refused by the kernel, which wants a name, or not sent: what matters is the looking. */
			if (write(fd, message, h->nlmsg_len) < 0)
				CHECK(errno != ENOTCONN && errno != EIO && errno != EMSGSIZE, "write: %s", strerror(errno));
			while (read(fd, (char[64]){ 0 }, 64) > 0)
				;
		}
	} else {
		while (n--)
			CHECK(open(argv[1], O_RDWR) < 0, "an open was not refused");
	}
	return 0;
}
