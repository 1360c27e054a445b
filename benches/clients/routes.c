/* routes.c WAY ROUTES DUMPS: dumps a table of ROUTES routes DUMPS times, in a network namespace of its own. */
#include "way.h"
#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

static uint64_t seen, chunks;
static int done;

static inline void take(struct chan *c, const char *m, size_t left)
{
	const struct nlmsghdr *n = (const void *)m;
	(void)c;
	chunks++;
	for (; NLMSG_OK(n, left); n = NLMSG_NEXT(n, left)) {
		const struct rtmsg *r = NLMSG_DATA(n);
		if (n->nlmsg_type == NLMSG_DONE) {
			done = 1;
			continue;
		}
		CHECK(n->nlmsg_type == RTM_NEWROUTE, "a message of type %u in the dump", n->nlmsg_type);
		seen += r->rtm_table == RT_TABLE_MAIN && r->rtm_protocol == RTPROT_STATIC;
	}
}

static void attribute(struct nlmsghdr *n, int type, uint32_t v)
{
	struct nlattr *a = (void *)((char *)n + n->nlmsg_len);
	*a = (struct nlattr){ NLA_HDRLEN + sizeof v, type };
	memcpy(a + 1, &v, sizeof v);
	n->nlmsg_len += a->nla_len;
}

static void add_routes(uint32_t count)
{
	static char buf[32768];
	struct chan c = chan_parse("recv");
	uint32_t lo = if_nametoindex("lo");
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CALL(udp);
	CALL(ioctl(udp, SIOCSIFFLAGS, &up));
	close(udp);
	chan_socket(&c, NETLINK_ROUTE);
	for (uint32_t i = 0; i < count;) {
		size_t used = 0;
		for (; i < count && used + 64 < sizeof buf; i++) {
			struct nlmsghdr *n = (void *)(buf + used);
			*n = (struct nlmsghdr){ NLMSG_LENGTH(sizeof(struct rtmsg)), RTM_NEWROUTE,
						NLM_F_REQUEST | NLM_F_CREATE | (i + 1 == count ? NLM_F_ACK : 0), 1, 0 };
			*(struct rtmsg *)NLMSG_DATA(n) = (struct rtmsg){
				.rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_table = RT_TABLE_MAIN,
				.rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK, .rtm_type = RTN_UNICAST };
			attribute(n, RTA_DST, htonl(10u << 24 | i));
			attribute(n, RTA_OIF, lo);
			used += n->nlmsg_len;
		}
		CALL(send(c.fd, buf, used, 0));
	}
	CALL(recv(c.fd, buf, sizeof buf, 0));
	CHECK(((struct nlmsgerr *)NLMSG_DATA(buf))->error == 0, "the last route was refused");
	close(c.fd);
}

int main(int argc, char **argv)
{
	struct {
		struct nlmsghdr n;
		struct rtmsg r;
	} ask = { { sizeof ask, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 7, 0 }, { .rtm_family = AF_INET } };
	struct chan c;
	struct meter m;
	uint64_t routes, dumps;
	CHECK(argc == 4, "usage: routes WAY ROUTES DUMPS");
	c = chan_parse(argv[1]);
	routes = number(argv[2]);
	dumps = number(argv[3]);
	CALL(unshare(CLONE_NEWNET));
	add_routes(routes);
	counter_open();
	chan_socket(&c, NETLINK_ROUTE);
	chan_rings(&c, 0, 0);
	meter_start(&m);
	for (uint64_t i = 0; i < dumps; i++) {
		CHECK(send(c.fd, &ask, sizeof ask, 0) == sizeof ask, "send: %s", strerror(errno));
		for (done = 0; !done;)
			CHAN_EACH(&c, take);
	}
	CHECK(seen == routes * dumps, "%lu routes instead of %lu", seen, routes * dumps);
	report(&m, &c, seen);
	fprintf(stderr, "%lu routes a chunk\n", seen / chunks);
	return 0;
}
