/* What others see of a client: argv[1] says how its endpoints come to their end, argv[2] how many requests are made first. Says
 * "ready" when they are answered and, for "hold", waits for the end of its input. */
#include "msg.h"
#include <sched.h>
#include <linux/genetlink.h>

static void ask(struct sock *s, int times)
{
	char buf[8192];
	struct nl_mmap_hdr meta;
	for (int i = 1; i <= times; i++) {
		struct nlmsghdr *n = msg_ack(buf, i);
		tx_put(s, n, n->nlmsg_len);
		CHECK_CALL(tx_kick(s));
		CHECK(rx_take(s, buf, sizeof buf, &meta, 2000) > 0, "no answer");
	}
}

static struct sock open_one(void)
{
	return ring_open(NETLINK_ROUTE, GEOM(4096, 8, 2048), GEOM(4096, 8, 2048));
}

/* Asks for the loopback device, and for one that is not there. */
static void ask_link(struct sock *s)
{
	char buf[16384];
	struct nl_mmap_hdr meta;
	struct nlmsghdr *n;
	for (int i = 0; i < 2; i++) {
		n = msg_getlink(buf, i ? 987654321 : 1, 0, 5 + i);
		tx_put(s, n, n->nlmsg_len);
		CHECK_CALL(tx_kick(s));
		CHECK(rx_take(s, buf, sizeof buf, &meta, 2000) > 0, "no answer");
	}
}

/* What is known of the controller of generic netlink. */
static void ask_generic(struct sock *s)
{
	char buf[8192];
	struct nl_mmap_hdr meta;
	struct nlmsghdr *n = msg(buf, GENL_ID_CTRL, NLM_F_REQUEST, 7, GENL_HDRLEN);
	struct genlmsghdr *g = NLMSG_DATA(n);
	g->cmd = CTRL_CMD_GETFAMILY;
	g->version = 1;
	attr(n, CTRL_ATTR_FAMILY_NAME, "nlctrl", 7);
	tx_put(s, n, n->nlmsg_len);
	CHECK_CALL(tx_kick(s));
	CHECK(rx_take(s, buf, sizeof buf, &meta, 2000) > 0, "no answer");
}

static void ready_and_hold(void)
{
	char byte;
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "hold";
	int times = argc > 2 ? atoi(argv[2]) : 1;
	static const char *const alone[] = { "stuck", "copies", "lose", "lossy" };
	/* Who multicasts to himself is to hear nobody else's: where that may be had, in a network of his own. */
	for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
		if (!strcmp(way, alone[i]))
			(void)unshare(CLONE_NEWNET);
	struct sock s = open_one();
	pid_t child;

	ask(&s, times);
	if (!strcmp(way, "hold")) {
		ready_and_hold();
	} else if (!strcmp(way, "return")) {
		return 0;
	} else if (!strcmp(way, "_exit")) {
		_exit(7);
	} else if (!strcmp(way, "close")) {
		munmap(s.map, s.len);
		close(s.fd);
		ready_and_hold();
	} else if (!strcmp(way, "kill")) {
		raise(SIGKILL);
	} else if (!strcmp(way, "abort")) {
		abort();
	} else if (!strcmp(way, "fork")) {
		/* The child goes on with the parent's endpoint, and has one of its own. */
		CHECK_CALL(child = fork());
		if (!child) {
			struct sock own = open_one();
			ask(&s, times);
			ask(&own, times);
			return 0;
		}
		join_child(child);
	} else if (!strcmp(way, "shared")) {
		/* The child asks so often a second by its parent's endpoint and by one of its own, until their input ends. */
		struct pollfd in = { 0, POLLIN, 0 };
		CHECK_CALL(child = fork());
		if (!child) {
			struct sock own = open_one();
			while (poll(&in, 1, 1000 / times) == 0) {
				ask(&s, 1);
				ask(&own, 1);
			}
			return 0;
		}
		ready_and_hold();
		join_child(child);
	} else if (!strcmp(way, "daemon")) {
		/* The parent ends first. */
		CHECK_CALL(child = fork());
		if (child)
			_exit(0);
		msleep(200);
		ask(&s, times);
		ready_and_hold();
	} else if (!strcmp(way, "vfork")) {
		CHECK_CALL(child = vfork());
		if (!child) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		join_child(child);
		ask(&s, times);
	} else if (!strcmp(way, "exec")) {
		execl("/proc/self/exe", argv[0], argc > 3 ? argv[3] : "return", argv[2], NULL);
		FAIL("exec: %s", strerror(errno));
	} else if (!strcmp(way, "spawn")) {
		/* Killed while the parent lives. */
		CHECK_CALL(child = fork());
		if (!child) {
			struct sock own = open_one();
			ask(&own, times);
			raise(SIGKILL);
		}
		CHECK_CALL(waitpid(child, NULL, 0));
	} else if (!strcmp(way, "many")) {
		for (int i = 0; i < times; i++) {
			struct sock one = open_one();
			ask(&one, 1);
		}
		ready_and_hold();
	} else if (!strcmp(way, "stuck")) {
		/* Gets so many, and never looks at them. */
		struct sock r = ring_open(NETLINK_USERSOCK, GEOM(4096, 8, 2048), NO_RING);
		int group = 3, tx = plain_open(NETLINK_USERSOCK);
		struct pollfd p = { r.fd, POLLIN, 0 };
		char buf[2048];
		CHECK_CALL(setsockopt(r.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
		for (int i = 1; i <= times; i++)
			CHECK_CALL(multicast(tx, msg_user(buf, 100, i), 100, group));
		CHECK(poll(&p, 1, 2000) == 1, "nothing came");
		ready_and_hold();
	} else if (!strcmp(way, "busy")) {
		/* So many requests a second, until its input ends. */
		struct pollfd in = { 0, POLLIN, 0 };
		puts("ready");
		fflush(stdout);
		if (argc > 3 && !strcmp(argv[3], "generic")) {
			struct sock g = ring_open(NETLINK_GENERIC, GEOM(4096, 8, 2048), GEOM(4096, 8, 2048));
			while (poll(&in, 1, 1000 / times) == 0)
				ask_generic(&g);
		}
		while (argc > 3 && poll(&in, 1, 1000 / times) == 0)
			ask_link(&s);
		while (poll(&in, 1, 1000 / times) == 0)
			ask(&s, 1);
	} else if (!strcmp(way, "copies")) {
		/* At a word, sends itself so many messages that no frame holds, and takes each. */
		struct sock r = ring_open(NETLINK_USERSOCK, GEOM(4096, 8, 2048), NO_RING);
		int group = 3, tx = plain_open(NETLINK_USERSOCK);
		char buf[8192], byte;
		struct nl_mmap_hdr meta;
		CHECK_CALL(setsockopt(r.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
		puts("ready");
		fflush(stdout);
		CHECK(read(0, &byte, 1) == 1, "no word");
		for (int i = 1; i <= times; i++) {
			CHECK_CALL(multicast(tx, msg_user(buf, 4000, i), 4000, group));
			ssize_t len = rx_take(&r, buf, sizeof buf, &meta, 2000);
			CHECK(len == 4000, "%zd bytes came", len);
			check_user(buf, len, i);
		}
		puts("done");
		fflush(stdout);
		while (read(0, &byte, 1) > 0)
			;
	} else if (!strcmp(way, "lose") || !strcmp(way, "lossy")) {
		/* More multicasts than ring and socket hold, to a group of its own. */
		struct sock r = ring_open(NETLINK_USERSOCK, GEOM(4096, 8, 2048), NO_RING);
		int group = 3, small = 32768, tx = plain_open(NETLINK_USERSOCK), sent = 0, err;
		socklen_t len = sizeof err;
		char buf[2048];
		struct pollfd p = { r.fd, POLLIN, 0 };
		CHECK_CALL(setsockopt(r.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
		CHECK_CALL(setsockopt(r.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
		if (argc > 3)
			CHECK(read(0, buf, 1) == 1, "no word");
		for (int round = 0; round < 4; round++) {
			for (int i = 0; i < 500; i++)
				CHECK_CALL(multicast(tx, msg_user(buf, 1500, ++sent), 1500, group));
			while (poll(&p, 1, 100) == 1) {
				if (p.revents & POLLERR)
					getsockopt(r.fd, SOL_SOCKET, SO_ERROR, &err, &len);
				while (status_of(head(&r.rx)) == NL_MMAP_STATUS_VALID) {
					set_status(head(&r.rx), NL_MMAP_STATUS_UNUSED);
					advance(&r.rx);
				}
			}
		}
		if (!strcmp(way, "lossy"))
			ready_and_hold();
	} else {
		FAIL("unknown way: %s", way);
	}
	return 0;
}
