/* A monitor of links as of 2013: joins the group before the rings are mapped, waits in poll, and reads each event in its
 * frame or by recv. argv[1] names a file to make when it listens; somebody then takes lo down and up again. */
#include "msg.h"
#include <fcntl.h>

static struct sock s;
static char buf[16384];

int main(int argc, char **argv)
{
	int group = RTNLGRP_LINK, up = 0, down = 0;
	long end = now_ms() + 20000;

	CHECK(argc > 1, "a file to make is needed");
	s = ring_open(NETLINK_ROUTE, GEOM(16384, 4, 4096), GEOM(4096, 1, 4096));
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	CHECK_CALL(close(open(argv[1], O_CREAT | O_WRONLY, 0600)));
	while (!up || !down) {
		struct nl_mmap_hdr meta;
		ssize_t len = rx_next(&s, buf, sizeof buf, &meta);
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		if (len < 0) {
			struct pollfd p = { s.fd, POLLIN, 0 };
			CHECK_CALL(poll(&p, 1, 1000));
			CHECK(!(p.revents & POLLERR), "overrun");
			CHECK(now_ms() < end, "seen until now: %d times down, %d up", down, up);
			continue;
		}
		CHECK(meta.nm_group == 1, "an event of group %u", meta.nm_group);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			const struct ifinfomsg *i = NLMSG_DATA(n);
			CHECK(n->nlmsg_type == RTM_NEWLINK, "message type %u", n->nlmsg_type);
			down += !(i->ifi_flags & IFF_UP);
			up += down && i->ifi_flags & IFF_UP;
		}
	}
	ok();
	return 0;
}
