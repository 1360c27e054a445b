/* Dumps `argv[1]` routes through `argv[2]` blocks of `argv[3]` bytes cut into frames of `argv[4]`,
 * pausing argv[5] microseconds a frame. Complete, each once, in the order of a plain dump, and the
 * process does not grow with the dump (clients.md 5; complaint 4). argv[6] "kick" asks by TX ring. */
#include "msg.h"
#include <sys/resource.h>

static unsigned *order, expected, got;

static void each_route(const void *chunk, ssize_t len, void (*f)(unsigned dst), int *done)
{
	const struct nlmsghdr *n = chunk;
	for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
		const struct rtmsg *r = NLMSG_DATA(n);
		CHECK(n->nlmsg_seq == 7, "a message of request %u", n->nlmsg_seq);
		if (n->nlmsg_type == NLMSG_DONE) {
			*done = 1;
		} else {
			const struct nlattr *dst = find_attr(n, sizeof *r, RTA_DST);
			unsigned char a[4];
			CHECK(n->nlmsg_type == RTM_NEWROUTE, "type %u in a route dump", n->nlmsg_type);
			CHECK(!(n->nlmsg_flags & NLM_F_DUMP_INTR), "the dump was interrupted");
			if (r->rtm_table != RT_TABLE_MAIN)
				continue;
			CHECK(dst, "a route without destination");
			memcpy(a, attr_data(dst), 4);
			f((unsigned)a[1] << 16 | a[2] << 8 | a[3]);
		}
	}
	CHECK(len == 0, "%zd bytes left over behind the messages of a chunk", len);
}

static void note(unsigned dst)
{
	order[expected++] = dst;
}

static void compare(unsigned dst)
{
	CHECK(got < expected, "more routes than the plain dump has");
	CHECK(order[got] == dst, "route %u is %06x, the plain dump has %06x", got, dst, order[got]);
	got++;
}

int main(int argc, char **argv)
{
	unsigned routes = argc > 1 ? atoi(argv[1]) : 1000;
	unsigned blocks = argc > 2 ? atoi(argv[2]) : 8, block = argc > 3 ? atoi(argv[3]) : 4096;
	unsigned frame = argc > 4 ? atoi(argv[4]) : 4096, pause_us = argc > 5 ? atoi(argv[5]) : 0;
	int by_kick = argc > 6 && !strcmp(argv[6], "kick"), fd, done = 0;
	static char buf[1 << 17];
	struct rusage before, after;
	struct nlmsghdr *req = msg_dump(buf, RTM_GETROUTE, AF_INET, 7);
	unsigned reqlen = req->nlmsg_len;
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(block, blocks, frame), by_kick ? GEOM(4096, 1, 4096) : NO_RING);

	lo_up();
	add_routes(routes);
	order = malloc(routes * sizeof *order);
	CHECK(order, "out of memory");

	fd = plain_open(NETLINK_ROUTE);
	CHECK_CALL(plain_send(fd, msg_dump(buf, RTM_GETROUTE, AF_INET, 7), reqlen, 0, 0));
	while (!done) {
		ssize_t n = recv(fd, buf, sizeof buf, 0);
		CHECK(n > 0, "plain dump: %s", strerror(errno));
		each_route(buf, n, note, &done);
	}
	CHECK(expected == routes, "the plain dump has %u of %u routes", expected, routes);
	close(fd);

	getrusage(RUSAGE_SELF, &before);
	msg_dump(buf, RTM_GETROUTE, AF_INET, 7);
	if (by_kick) {
		tx_put(&s, buf, reqlen);
		CHECK(tx_kick(&s) == (ssize_t)reqlen, "kick: %s", strerror(errno));
	} else
		CHECK_CALL(plain_send(s.fd, buf, reqlen, 0, 0));
	for (done = 0; !done;) {
		ssize_t n = rx_take(&s, buf, sizeof buf, NULL, 5000);
		each_route(buf, n, compare, &done);
		if (pause_us)
			usleep(pause_us);
	}
	getrusage(RUSAGE_SELF, &after);
	CHECK(got == expected, "%u of %u routes arrived", got, expected);
	CHECK(!ready(&s.rx), "a frame behind NLMSG_DONE");
	CHECK(after.ru_maxrss - before.ru_maxrss < 4096, "the process grew by %ld KiB during the dump",
	      after.ru_maxrss - before.ru_maxrss);
	CHECK(munmap(s.map, s.len) == 0 && close(s.fd) == 0, "tear-down: %s", strerror(errno));
	ok();
	return 0;
}
