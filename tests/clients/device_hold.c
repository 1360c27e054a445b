/* device_hold NODE: opens the node, makes a socket, says so by a byte, and answers each byte of its input with one, after a
 * request of its own has been answered. Ends with its input. */
#include "device.h"

int main(int argc, char **argv)
{
	struct sockaddr_nl name;
	struct device d;
	char byte = '.';
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	device_open(&d, argv[1], NETLINK_ROUTE);
	do {
		CALL(ioctl(d.fd, NLMMAP_GETSOCKNAME, &name));
		CHECK(name.nl_family == AF_NETLINK && name.nl_pid, "no port id");
		CHECK(write(1, &byte, 1) == 1, "write");
	} while (read(0, &byte, 1) == 1);
	return 0;
}
