/* Sockets over SCM_RIGHTS (argv[1]): netns - a helper makes the socket in another network namespace,
 * rings are set here afterwards (clients.md); receive - a plain socket arrives and becomes a ring
 * socket; send - a ring socket is handed to another process that uses it as an ordinary one, and
 * closed here; back - it goes through a socket pair within one process. */
#include "msg.h"
#include "pass.h"

static char buf[16384];

/* One link dump through the rings; the number of links that the socket's namespace has. */
static int links(struct sock *s)
{
	int n = 0, done = 0;
	tx_put(s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		struct nlmsghdr *h = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(s, buf, sizeof buf, NULL, 2000);
		for (; NLMSG_OK(h, (size_t)len); h = NLMSG_NEXT(h, len)) {
			n += h->nlmsg_type == RTM_NEWLINK;
			done |= h->nlmsg_type == NLMSG_DONE;
		}
	}
	return n;
}

static void add_bridge(void)
{
	int fd = plain_open(NETLINK_ROUTE);
	struct nlmsghdr *n = msg(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 1, sizeof(struct ifinfomsg));
	struct nlattr *info;
	attr(n, IFLA_IFNAME, "ifb7", 5);
	info = nest(n, IFLA_LINKINFO);
	attr(n, 1 /* IFLA_INFO_KIND */, "ifb", 4);
	nest_end(n, info);
	n->nlmsg_flags |= NLM_F_ACK;
	CHECK_CALL(plain_send(fd, n, n->nlmsg_len, 0, 0));
	CHECK(recv(fd, buf, sizeof buf, 0) >= 36, "recv: %s", strerror(errno));
	if (((struct nlmsgerr *)NLMSG_DATA(buf))->error)
		LACKING("a second interface: %s", strerror(-((struct nlmsgerr *)NLMSG_DATA(buf))->error));
	close(fd);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "netns";
	int pair[2], own, fd;
	struct sock s;
	pid_t pid;

	CHECK_CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	if (!strcmp(mode, "netns") || !strcmp(mode, "receive")) {
		own = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 8192), NO_RING).fd;
		pid = fork();
		CHECK_CALL(pid);
		if (pid == 0) {
			if (!strcmp(mode, "netns")) {
				CHECK_CALL(unshare(CLONE_NEWNET));
				add_bridge();
			}
			fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
			CHECK_CALL(fd);
			send_fd(pair[1], fd);
			_exit(0);
		}
		fd = recv_fd(pair[0]);
		join_child(pid);
		close(own);
		s = ring_attach(fd, GEOM(16384, 2, 8192), GEOM(4096, 1, 4096));
		bind_groups(fd, 0);
		fd = ring_open(NETLINK_ROUTE, GEOM(16384, 1, 8192), GEOM(4096, 1, 4096)).fd;
		close(fd);
		{
			struct sock here = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 1, 4096));
			int a = links(&s), b = links(&here);
			CHECK(a >= 1 && b >= 1, "%d and %d links", a, b);
			CHECK(strcmp(mode, "netns") || a > b, "the socket of the other namespace shows %d links, ours %d", a, b);
		}
	} else if (!strcmp(mode, "send")) {
		s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), NO_RING);
		pid = fork();
		CHECK_CALL(pid);
		if (pid == 0) {
			/* Nothing but the descriptor is inherited here in spirit: the mapping is dropped. */
			struct pollfd p;
			munmap(s.map, s.len);
			close(s.fd);
			fd = recv_fd(pair[1]);
			p = (struct pollfd){ fd, POLLIN, 0 };
			CHECK(port_of(fd) == s.port, "another socket came");
			CHECK(poll(&p, 1, 3000) == 1 && (p.revents & POLLIN), "a waiting message is not seen");
			_exit(0);
		}
		send_fd(pair[0], s.fd);
		fd = plain_open(NETLINK_USERSOCK);
		CHECK_CALL(plain_send(fd, msg_user(buf, 100, 1), 100, s.port, 0));
		join_child(pid);
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
	} else if (!strcmp(mode, "back")) {
		struct sock old;
		int i, sender = plain_open(NETLINK_USERSOCK);
		s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), NO_RING);
		for (i = 0; i < 5; i++) {
			old = s;
			send_fd(pair[0], s.fd);
			s.fd = recv_fd(pair[1]);
			CHECK(s.fd != old.fd, "the number is the same");
			if (i % 2)
				close(old.fd);
			CHECK_CALL(plain_send(sender, msg_user(buf, 100, i), 100, s.port, 0));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
			CHECK_CALL(plain_send(sender, msg_user(buf, 3000, i), 3000, s.port, 0));
			check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
		}
	} else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
