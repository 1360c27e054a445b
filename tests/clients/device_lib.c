/* device_lib NODE: the four calls of libnlmmap, then a dump of all links. */
#include <nlmmap.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	const struct nl_mmap_req req = { 65536, 1, 8192, 8 };
	struct nlmmap_kick kick = { .dest_len = 0 };
	struct nlmmap_map map;
	struct {
		struct nlmsghdr n;
		struct ifinfomsg i;
	} dump = { { sizeof dump, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { 0 } };
	struct nl_mmap_hdr *h;
	static char buf[1 << 16];
	unsigned pos = 0, links = 0;
	int fd, done = 0;

	if (argc != 2)
		return 2;
	if (nlmmap_open("/dev/null") != -1 || errno != ENOTTY)
		return fail("nlmmap_open of something else");
	if (nlmmap_open("/nowhere") != -1 || errno != ENOENT)
		return fail("nlmmap_open of nothing");
	if ((fd = nlmmap_open(argv[1])) < 0)
		return fail("nlmmap_open");
	if (nlmmap_rings(fd, &req, NULL) != -1 || errno != ENOTSOCK)
		return fail("nlmmap_rings before nlmmap_socket");
	if (nlmmap_socket(fd, SOCK_RAW, NETLINK_ROUTE, 0))
		return fail("nlmmap_socket");
	if (nlmmap_map(fd, &map) != -1 || errno != EINVAL)
		return fail("nlmmap_map before nlmmap_rings");
	if (nlmmap_rings(fd, &req, &req))
		return fail("nlmmap_rings");
	if (nlmmap_map(fd, &map))
		return fail("nlmmap_map");
	if (map.rx_len != 65536 || map.tx_len != 65536 || (char *)map.tx != (char *)map.rx + map.rx_len)
		return fail("the places of the rings");

	h = map.tx;
	memcpy((char *)h + NL_MMAP_HDRLEN, &dump, sizeof dump);
	h->nm_len = sizeof dump;
	__atomic_store_n(&h->nm_status, NL_MMAP_STATUS_VALID, __ATOMIC_RELEASE);
	if (ioctl(fd, NLMMAP_KICK, &kick) || kick.sent != sizeof dump)
		return fail("NLMMAP_KICK");
	while (!done) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		const struct nlmsghdr *n = (void *)buf;
		int left;
		h = (void *)((char *)map.rx + pos++ % req.nm_frame_nr * req.nm_frame_size);
		if (__atomic_load_n(&h->nm_status, __ATOMIC_ACQUIRE) < NL_MMAP_STATUS_VALID && poll(&p, 1, 10000) != 1)
			return fail("poll");
		left = h->nm_len;
		if (__atomic_load_n(&h->nm_status, __ATOMIC_ACQUIRE) == NL_MMAP_STATUS_COPY) {
			if (read(fd, buf, sizeof buf) != left)
				return fail("read");
		} else {
			memcpy(buf, (char *)h + NL_MMAP_HDRLEN, left);
		}
		__atomic_store_n(&h->nm_status, NL_MMAP_STATUS_UNUSED, __ATOMIC_RELEASE);
		for (; NLMSG_OK(n, (unsigned)left); n = NLMSG_NEXT(n, left)) {
			links += n->nlmsg_type == RTM_NEWLINK;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	if (munmap(map.rx, map.rx_len + map.tx_len) || close(fd))
		return fail("munmap, close");
	printf("%u links\n", links);
	return links == 0;
}
