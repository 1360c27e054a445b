/* Spins on nm_status and makes no call at all (clients.md 3): frames appear while the client only
 * reads memory. argv[1]: messages (from another process), dump (all of it inside the ring),
 * long-dump (many times the ring, never a poll once frames flow). */
#include "msg.h"

/* 20 000 000 loads before giving up is what one client did; ours allows itself ten seconds. */
static void spin(struct sock *s, const char *what)
{
	long end = now_ms() + 10000;
	unsigned long loads = 0;
	while (!ready(&s->rx))
		if (++loads % 1000000 == 0)
			CHECK(now_ms() < end, "nothing appeared in frame %u while spinning for %s", s->rx.pos, what);
}

static void messages(int total)
{
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(16384, 1, 2048), NO_RING);
	char buf[2048];
	volatile uint32_t *taken = shared_counter();
	int i;
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_USERSOCK);
		for (i = 0; i < total; i++) {
			if (i % 100 == 0)
				msleep(5); /* long enough for whoever serves the ring to sleep */
			await_window(taken, i, s.rx.frame_nr);
			CHECK_CALL(plain_send(fd, msg_user(buf, 128, i), 128, s.port, 0));
		}
		_exit(0);
	}
	for (i = 0; i < total; i++) {
		spin(&s, "a message");
		check_user(buf, rx_next(&s, buf, sizeof buf, NULL), i);
		*taken = i + 1;
	}
	join_child(pid);
}

static void dump(unsigned routes, struct nl_mmap_req geometry)
{
	struct sock s = ring_open(NETLINK_ROUTE, geometry, NO_RING);
	static char buf[65536];
	unsigned seen = 0, done = 0;
	lo_up();
	add_routes(routes);
	msg_dump(buf, RTM_GETROUTE, AF_INET, 7);
	CHECK_CALL(plain_send(s.fd, buf, ((struct nlmsghdr *)buf)->nlmsg_len, 0, 0));
	while (!done) {
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		ssize_t len;
		spin(&s, "a dump part");
		len = rx_next(&s, buf, sizeof buf, NULL);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			seen += n->nlmsg_type == RTM_NEWROUTE &&
				((struct rtmsg *)NLMSG_DATA(n))->rtm_table == RT_TABLE_MAIN;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	CHECK(seen == routes, "%u of %u routes arrived", seen, routes);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "messages";
	if (!strcmp(what, "messages"))
		messages(1000);
	else if (!strcmp(what, "dump"))
		dump(200, GEOM(16384, 4, 16384));
	else
		dump(20000, GEOM(16384, 4, 16384));
	ok();
	return 0;
}
