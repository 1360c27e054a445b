/* A library that sets rings in every program that it is loaded into, and keeps them: the program knows nothing of them. Where the kernel
 * refuses them the socket stays, so that both programs have the same descriptors. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/netlink.h>

enum { BLOCK = 4096, BLOCKS = 8, HIGH = 200 };

__attribute__((constructor)) static void set_rings(void)
{
	struct nl_mmap_req req = { BLOCK, BLOCKS, BLOCK / 2, 2 * BLOCKS };
	int low = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	/* Out of the way of programs that count on the next number. */
	int fd = fcntl(low, F_DUPFD_CLOEXEC, HIGH);
	close(low);
	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req) == 0 &&
	    setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &req, sizeof req) == 0)
		mmap(NULL, 2 * BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
