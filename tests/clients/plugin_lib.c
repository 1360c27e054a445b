/* The library half of plugin.c: all netlink code lives in here and is reached through dlopen. */
#include "msg.h"

static struct sock s;

int plugin_open(void);
int plugin_links(void);
int plugin_close(void);

int plugin_open(void)
{
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 1, 4096));
	return s.fd;
}

int plugin_links(void)
{
	static char buf[16384];
	int links = 0, done = 0;
	tx_put(&s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(&s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(&s, buf, sizeof buf, NULL, 3000);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			links += n->nlmsg_type == RTM_NEWLINK;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	return links;
}

int plugin_close(void)
{
	return munmap(s.map, s.len) + close(s.fd);
}
