/* device_faults NODE MODE: clients of a daemon of whose system calls one fails. What has failed they do again: a call that said it failed
 * has done nothing that its repetition would show twice, and one that said it succeeded has lost nothing. A step that fails again and
 * again, or whose socket is lost (ENOTCONN), is given up: its name and error are told, and the status is 4.
 * calls      every call of the node's, with rings
 * plain      messages without rings, and waiting for them
 * user       a client whose user changes with its socket open
 * granted    queue 7, links and a family, by a policy that grants them (tests/device/faults.rs)
 * witness    a stream of numbered messages in a ring, looked at without any call, until its input ends */
#include "device.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/genetlink.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <sys/wait.h>

enum { GIVEN_UP = 4, TRIES = 3, MS = 4000 };

static const char *node;
static unsigned seq;
static char buf[1 << 17];

static int failed(const char *step, int *try)
{
	fprintf(stderr, "%s: %s\n", step, strerror(errno));
	if (errno == ENOTCONN || ++*try == TRIES) {
		fprintf(stderr, "given up: %s: %s\n", step, strerror(errno));
		_exit(GIVEN_UP);
	}
	return 1;
}

/* Does a call again that failed, a few times. */
#define AGAIN(step, call) ({ \
	long r_; \
	int try_ = 0; \
	while ((r_ = (long)(call)) == -1 && failed(step, &try_)) \
		; \
	r_; \
})
#define IOCTL(d, request, arg) AGAIN(#request, ioctl((d)->fd, request, arg))

static void make(struct device *d, int protocol)
{
	struct nlmmap_socket s = { SOCK_RAW, protocol };
	struct nlmmap_version v;
	memset(d, 0, sizeof *d);
	d->fd = AGAIN("open", open(node, O_RDWR | O_CLOEXEC));
	IOCTL(d, NLMMAP_VERSION, &v);
	IOCTL(d, NLMMAP_SOCKET, &s);
}

static unsigned bound(struct device *d)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	IOCTL(d, NLMMAP_BIND, &any);
	IOCTL(d, NLMMAP_GETSOCKNAME, &any);
	return any.nl_pid;
}

/* A ring of this kind is set, or freed. A failure leaves it as it was, or tells that there is none now. */
static void ring(struct device *d, unsigned long which, const struct nl_mmap_req *req)
{
	int try = 0;
	while (ioctl(d->fd, which, req) && failed(which == NLMMAP_RX_RING ? "RX ring" : "TX ring", &try)) {
		struct nlmmap_state state;
		IOCTL(d, NLMMAP_STATE, &state);
		if (!req->nm_block_nr == !(state.rings & (which == NLMMAP_RX_RING ? NLMMAP_STATE_RX : NLMMAP_STATE_TX))) {
			CHECK(!req->nm_block_nr, "a ring that was refused is there");
			return;
		}
	}
}

static void rings(struct device *d, unsigned block, unsigned frame)
{
	struct nlmmap_mapped mapped = { .mapped = 1 };
	struct nlmmap_map_info info;
	d->req = (struct nl_mmap_req){ block, 1, frame, block / frame };
	ring(d, NLMMAP_RX_RING, &d->req);
	ring(d, NLMMAP_TX_RING, &d->req);
	IOCTL(d, NLMMAP_MAPPED, &mapped);
	IOCTL(d, NLMMAP_MAP_INFO, &info);
	d->rx_len = info.rx_len;
	d->tx_len = info.tx_len;
	CHECK(d->rx_len == block && d->tx_len == block, "lengths %zu and %zu", d->rx_len, d->tx_len);
	d->rings = (char *)AGAIN("mmap", mmap(NULL, 2 * block, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0));
	d->rx = d->tx = 0;
}

static void end(struct device *d)
{
	if (d->rings)
		munmap(d->rings, d->rx_len + d->tx_len);
	close(d->fd);
	d->rings = NULL;
}

/* Waits, and takes an error away that poll tells of. */
static void wait_for(struct device *d, double until)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	int n = AGAIN("poll", poll(&p, 1, 500)), error;
	CHECK(now() < until, "nothing within %d ms", MS);
	if (n > 0 && p.revents & POLLERR) {
		IOCTL(d, NLMMAP_GET_ERROR, &error);
		fprintf(stderr, "pending: %s\n", strerror(error));
	}
}

/* The next message of the ring. */
static size_t next(struct device *d)
{
	double until = now() + MS / 1e3;
	for (;;) {
		struct nl_mmap_hdr *h = frame_at(d, 0, d->rx);
		unsigned status = status_of(h);
		size_t len = h->nm_len;
		if (status == NL_MMAP_STATUS_VALID && len) {
			CHECK(len <= d->req.nm_frame_size - NL_MMAP_HDRLEN, "a frame of %zu bytes", len);
			memcpy(buf, (char *)h + NL_MMAP_HDRLEN, len);
		} else if (status == NL_MMAP_STATUS_COPY) {
			ssize_t got = AGAIN("read", read(d->fd, buf, sizeof buf));
			CHECK(got == (ssize_t)len, "COPY of %zu bytes, read gave %zd", len, got);
		} else if (status == NL_MMAP_STATUS_UNUSED) {
			wait_for(d, until);
			continue;
		}
		set_status(h, NL_MMAP_STATUS_UNUSED);
		d->rx++;
		if (len)
			return len;
	}
}

static void fill(struct device *d, const struct nlmsghdr *n)
{
	struct nl_mmap_hdr *h = frame_at(d, d->rx_len, d->tx);
	CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", d->tx, status_of(h));
	memcpy((char *)h + NL_MMAP_HDRLEN, n, n->nlmsg_len);
	h->nm_len = n->nlmsg_len;
	set_status(h, NL_MMAP_STATUS_VALID);
}

/* Sends a request by the ring, under a new number each time, and gives the errno of its acknowledgement. */
static int ask(struct device *d, struct nlmsghdr *n, int as)
{
	int try = 0, error;
	size_t len;
	for (;;) {
		struct nl_mmap_hdr *h = frame_at(d, d->rx_len, d->tx);
		struct nlmmap_kick_as kick = { .pid = getpid(), .uid = getuid(), .gid = getgid() };
		n->nlmsg_seq = ++seq;
		fill(d, n);
		while (ioctl(d->fd, as ? NLMMAP_KICK_AS : NLMMAP_KICK, &kick) && failed("NLMMAP_KICK", &try)
		       && status_of(h) == NL_MMAP_STATUS_VALID)
			;
		CHECK(status_of(h) == NL_MMAP_STATUS_UNUSED, "TX frame %u has status %u", d->tx, status_of(h));
		d->tx++;
		if (kick.kick.sent)
			break;
	}
	len = next(d);
	error = ack_of(buf, len, seq);
	CHECK(error >= 0, "type %u, sequence %u instead of the acknowledgement of %u", ((struct nlmsghdr *)buf)->nlmsg_type,
	      ((struct nlmsghdr *)buf)->nlmsg_seq, seq);
	return error;
}

static int noop(struct device *d, int as)
{
	char req[64];
	return ask(d, request(req, NLMSG_NOOP, NLM_F_ACK, 0, 0), as);
}

static int plain_socket(unsigned *port)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof a;
	int fd;
	CALL(fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK));
	CALL(bind(fd, (struct sockaddr *)&a, sizeof a));
	CALL(getsockname(fd, (struct sockaddr *)&a, &len));
	*port = a.nl_pid;
	return fd;
}

/* A numbered message from a socket of its own. */
static void say(int from, unsigned port, unsigned number, size_t size)
{
	static char text[1 << 16];
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = port };
	struct nlmsghdr *n = (void *)text;
	*n = (struct nlmsghdr){ NLMSG_LENGTH(size), 77, 0, number, 0 };
	memset(NLMSG_DATA(n), number, size);
	CALL(sendto(from, n, n->nlmsg_len, 0, (struct sockaddr *)&to, sizeof to));
}

static void heard(size_t len, unsigned number, size_t size)
{
	const struct nlmsghdr *n = (void *)buf;
	CHECK(len == NLMSG_LENGTH(size) && n->nlmsg_type == 77 && n->nlmsg_seq == number,
	      "message %u, type %u, %zu bytes, instead of %u with %zu", n->nlmsg_seq, n->nlmsg_type, len, number, size);
	for (size_t i = 0; i < size; i++)
		CHECK(((char *)NLMSG_DATA(n))[i] == (char)number, "byte %zu of message %u is %d", i, number, ((char *)NLMSG_DATA(n))[i]);
}

static void option(struct device *d, int level, int name, const void *value, unsigned len)
{
	struct {
		struct nlmmap_opt o;
		char value[256];
	} a = { { level, name, len }, { 0 } };
	memcpy(a.value, value, len);
	AGAIN("NLMMAP_SETOPT", ioctl(d->fd, NLMMAP_SETOPT(len), &a));
}

static int is_set(struct device *d, int level, int name)
{
	struct {
		struct nlmmap_opt o;
		int value;
	} a = { { level, name, sizeof a.value }, 0 };
	AGAIN("NLMMAP_GETOPT", ioctl(d->fd, NLMMAP_GETOPT(sizeof a.value), &a));
	return a.value;
}

/* A message by NLMMAP_RECV and its relatives, of any size. */
static size_t received(struct device *d)
{
	static struct {
		struct nlmmap_message m;
		char rest[NLMMAP_CONTROL_ROOM + NLMMAP_MESSAGE_ROOM];
	} a;
	static struct {
		struct nlmmap_part p;
		char rest[8192];
	} part;
	size_t at = 0;
	AGAIN("NLMMAP_PEEK", ioctl(d->fd, NLMMAP_PEEK(100), &a));
	AGAIN("NLMMAP_RECV", ioctl(d->fd, NLMMAP_RECV(NLMMAP_MESSAGE_ROOM), &a));
	if (!(a.m.flags & NLMMAP_MESSAGE_STAYS)) {
		memcpy(buf, a.rest + (a.m.control_len + 7) / 8 * 8, a.m.data_len);
		return a.m.data_len;
	}
	while (at < a.m.len) {
		part.p = (struct nlmmap_part){ a.m.serial, at, 0 };
		AGAIN("NLMMAP_PART", ioctl(d->fd, NLMMAP_PART(sizeof part.rest), &part));
		CHECK(part.p.data_len, "nothing of the message behind byte %zu of %u", at, a.m.len);
		memcpy(buf + at, part.rest, part.p.data_len);
		at += part.p.data_len;
	}
	part.p = (struct nlmmap_part){ a.m.serial, 0, 0 };
	AGAIN("NLMMAP_PART(0)", ioctl(d->fd, NLMMAP_PART(0), &part));
	return at;
}

static void links(struct device *d)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_GETLINK, NLM_F_DUMP, 0, sizeof(struct ifinfomsg));
	struct nlmmap_kick kick = { .sent = 0 };
	int found = 0, try = 0;
	do {
		n->nlmsg_seq = ++seq;
		fill(d, n);
		while (ioctl(d->fd, NLMMAP_KICK, &kick) && failed("kick of a dump", &try)
		       && status_of(frame_at(d, d->rx_len, d->tx)) == NL_MMAP_STATUS_VALID)
			;
		d->tx++;
	} while (!kick.sent);
	for (;;) {
		int len = next(d);
		for (n = (void *)buf; NLMSG_OK(n, (unsigned)len); n = NLMSG_NEXT(n, len)) {
			CHECK(n->nlmsg_seq == seq, "sequence %u in the dump %u", n->nlmsg_seq, seq);
			if (n->nlmsg_type == NLMSG_DONE) {
				CHECK(found >= 1, "%d links", found);
				return;
			}
			found++;
		}
	}
}

static void calls(void)
{
	struct sock_filter pass = { BPF_RET | BPF_K, 0, 0, 0xffffffff };
	struct nlmmap_sockopt ack = { SOL_NETLINK, NETLINK_CAP_ACK, 1 }, quiet = { SOL_NETLINK, NETLINK_NO_ENOBUFS, 1 };
	struct nl_mmap_req none = { 0, 0, 0, 0 };
	struct nlmmap_mapped unmapped = { .mapped = 0 };
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	struct { struct nlmmap_opt o; unsigned words[64]; } list = { { SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, sizeof list.words }, { 0 } };
	struct { long sec, usec; } limit = { 0, 30000 };
	struct nlmmap_state state;
	struct nlmmap_kick kick = { .sent = 0 };
	unsigned near = RTNLGRP_LINK, far = 34, port, to;
	struct nlmsghdr *n;
	struct device d;
	char req[2048];
	int on = 1, off = 0, from, ep, one, try = 0;
	struct epoll_event e = { .events = EPOLLIN };

	make(&d, NETLINK_ROUTE);
	IOCTL(&d, NLMMAP_SETSOCKOPT, &ack);
	IOCTL(&d, NLMMAP_GETSOCKOPT, &ack);
	CHECK(ack.value == 1, "an option that was set is %d", ack.value);
	bound(&d);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &near);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &far);
	rings(&d, 16384, 2048);
	IOCTL(&d, NLMMAP_DROP_MEMBERSHIP, &far);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &far);
	IOCTL(&d, NLMMAP_DROP_MEMBERSHIP, &near);
	CHECK(noop(&d, 0) == 0 && noop(&d, 1) == 0, "a request was refused");
	links(&d);
	IOCTL(&d, NLMMAP_SETSOCKOPT, &quiet);
	option(&d, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
	option(&d, SOL_NETLINK, NETLINK_PKTINFO, &on, sizeof on);
	CHECK(is_set(&d, SOL_SOCKET, SO_PASSCRED) && is_set(&d, SOL_NETLINK, NETLINK_PKTINFO), "options are as they were");
	option(&d, SOL_SOCKET, SO_PASSCRED, &off, sizeof off);
	option(&d, SOL_SOCKET, SO_ATTACH_FILTER, &pass, sizeof pass);
	option(&d, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &near, sizeof near);
	AGAIN("NLMMAP_GETOPT", ioctl(d.fd, NLMMAP_GETOPT(sizeof list.words), &list));
	CHECK(list.words[0] & 1, "the group is not listed");
	option(&d, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &near, sizeof near);
	CHECK(noop(&d, 0) == 0, "a request was refused");
	end(&d);

	make(&d, NETLINK_USERSOCK);
	from = plain_socket(&port);
	to = bound(&d);
	a.nl_pid = port;
	IOCTL(&d, NLMMAP_CONNECT, &a);
	IOCTL(&d, NLMMAP_GETPEERNAME, &a);
	CHECK(a.nl_pid == port, "the peer is %u", a.nl_pid);
	IOCTL(&d, NLMMAP_STATE, &state);
	CHECK(state.protocol == NETLINK_USERSOCK, "protocol %u", state.protocol);
	rings(&d, 16384, 2048);
	ep = epoll_create1(EPOLL_CLOEXEC);
	CALL(epoll_ctl(ep, EPOLL_CTL_ADD, d.fd, &e));
	/* More than the ring holds, of which some are longer than frames. */
	for (unsigned i = 0; i < 24; i++)
		say(from, to, i, i % 5 == 1 ? 5000 : i);
	AGAIN("epoll_wait", epoll_wait(ep, &e, 1, 500));
	for (unsigned i = 0; i < 24; i++)
		heard(next(&d), i, i % 5 == 1 ? 5000 : i);
	usleep(3000);
	say(from, to, 30, 20);
	heard(next(&d), 30, 20);
	/* A receiver without room, for as long as the kick may last. */
	option(&d, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	one = 2048;
	CALL(setsockopt(from, SOL_SOCKET, SO_RCVBUF, &one, sizeof one));
	for (unsigned i = 0; i < 6; i++) {
		n = request(req, 77, 0, i, 1500);
		fill(&d, n);
		if (!ioctl(d.fd, NLMMAP_KICK, &kick)) {
			CHECK(status_of(frame_at(&d, d.rx_len, d.tx)) == NL_MMAP_STATUS_UNUSED, "a frame was sent and is there");
		} else if (status_of(frame_at(&d, d.rx_len, d.tx)) == NL_MMAP_STATUS_VALID) {
			set_status(frame_at(&d, d.rx_len, d.tx), NL_MMAP_STATUS_UNUSED);
			failed("a kick", &try);
			continue;
		}
		d.tx++;
	}
	/* Rings that are freed, and set again. */
	munmap(d.rings, d.rx_len + d.tx_len);
	d.rings = NULL;
	end(&d);
	make(&d, NETLINK_USERSOCK);
	to = bound(&d);
	d.req = (struct nl_mmap_req){ 16384, 1, 2048, 8 };
	ring(&d, NLMMAP_RX_RING, &d.req);
	ring(&d, NLMMAP_RX_RING, &none);
	ring(&d, NLMMAP_TX_RING, &d.req);
	ring(&d, NLMMAP_TX_RING, &none);
	rings(&d, 32768, 4096);
	say(from, to, 7, 100);
	say(from, to, 8, 10000);
	say(from, to, 9, 40000);
	heard(next(&d), 7, 100);
	for (unsigned i = 8; i < 10; i++) {
		double until = now() + MS / 1e3;
		while (status_of(frame_at(&d, 0, d.rx)) != NL_MMAP_STATUS_COPY)
			wait_for(&d, until);
		heard(received(&d), i, i == 8 ? 10000 : 40000);
		set_status(frame_at(&d, 0, d.rx), NL_MMAP_STATUS_UNUSED);
		d.rx++;
	}
	IOCTL(&d, NLMMAP_MAPPED, &unmapped);
	end(&d);
	close(ep);
	close(from);
}

/* A message without a ring; waits for it. */
static size_t got(struct device *d)
{
	return AGAIN("read", read(d->fd, buf, sizeof buf));
}

static void plain(void)
{
	struct nlmmap_kick kick = { .sent = 0 };
	unsigned port, to;
	struct device d;
	char req[64];
	struct { struct nlmmap_send s; char data[64]; } a = { .s = { .flags = 0 } };
	struct nlmsghdr *n;
	int from, status;
	pid_t child;
	make(&d, NETLINK_ROUTE);
	bound(&d);
	CHECK(ioctl(d.fd, NLMMAP_KICK, &kick) == -1, "a kick without a ring");
	n = request(req, NLMSG_NOOP, NLM_F_ACK, ++seq, 0);
	AGAIN("write", write(d.fd, n, n->nlmsg_len));
	CHECK(ack_of(buf, got(&d), seq) == 0, "no acknowledgement");
	n = request(a.data, NLMSG_NOOP, NLM_F_ACK, ++seq, 0);
	AGAIN("NLMMAP_SEND", ioctl(d.fd, NLMMAP_SEND(16), &a));
	CHECK(ack_of(buf, got(&d), seq) == 0, "no acknowledgement");
	a.s.flags = NLMMAP_SEND_NEXT;
	AGAIN("NLMMAP_SEND_NEXT", ioctl(d.fd, NLMMAP_SEND(0), &a));
	n = request(req, NLMSG_NOOP, NLM_F_ACK, ++seq, 0);
	AGAIN("write", write(d.fd, n, n->nlmsg_len));
	wait_for(&d, now() + MS / 1e3);
	CHECK(ack_of(buf, received(&d), seq) == 0, "no acknowledgement");
	end(&d);
	make(&d, NETLINK_USERSOCK);
	to = bound(&d);
	from = plain_socket(&port);
	/* It sleeps in read, and in poll, when the message comes. */
	for (unsigned i = 0; i < 2; i++) {
		CALL(child = fork());
		if (!child) {
			usleep(20000);
			say(from, to, i, 50);
			_exit(0);
		}
		if (i)
			wait_for(&d, now() + MS / 1e3);
		heard(got(&d), i, 50);
		CALL(waitpid(child, &status, 0));
	}
	end(&d);
	close(from);
}

static void user(void)
{
	struct device d, u;
	unsigned port, to;
	int from = plain_socket(&port);
	make(&d, NETLINK_ROUTE);
	bound(&d);
	rings(&d, 16384, 2048);
	make(&u, NETLINK_USERSOCK);
	to = bound(&u);
	rings(&u, 16384, 2048);
	for (unsigned i = 0; i < 4; i++) {
		CALL(seteuid(i % 2 ? 0 : 65534));
		CHECK(noop(&d, 0) == 0, "a request was refused");
		say(from, to, i, i % 2 ? 4000 : 40);
		heard(next(&u), i, i % 2 ? 4000 : 40);
		IOCTL(&u, NLMMAP_GETSOCKNAME, (&(struct sockaddr_nl){ 0 }));
	}
	CALL(seteuid(0));
	end(&d);
	end(&u);
	close(from);
}

/* NFQNL_MSG_CONFIG with a command, for queue 7. */
static struct nlmsghdr *config(void *to, unsigned char command)
{
	struct nlmsghdr *n = request(to, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, ++seq, sizeof(struct nfgenmsg) + 8);
	struct nfgenmsg *g = NLMSG_DATA(n);
	struct nlattr *a = (void *)(g + 1);
	*g = (struct nfgenmsg){ AF_UNSPEC, NFNETLINK_V0, htons(7) };
	*a = (struct nlattr){ 8, NFQA_CFG_CMD };
	*(struct nfqnl_msg_config_cmd *)(a + 1) = (struct nfqnl_msg_config_cmd){ command, 0, htons(AF_INET) };
	return n;
}

static void granted(void)
{
	unsigned group = NFNLGRP_CONNTRACK_NEW, near = RTNLGRP_LINK, far = RTNLGRP_BRVLAN;
	struct { struct nlmsghdr n; struct genlmsghdr g; struct nlattr a; char name[8]; } family;
	struct sockaddr_nl groups = { .nl_family = AF_NETLINK, .nl_groups = 1 << (NFNLGRP_CONNTRACK_NEW - 1) };
	struct nlmsghdr *n;
	struct device d;
	char req[256];
	int error, try = 0;
	make(&d, NETLINK_NETFILTER);
	bound(&d);
	rings(&d, 16384, 2048);
	/* A grant that could not be had is the answer's error, once; so is what the kernel says. */
	while ((error = ask(&d, config(req, NFQNL_CFG_CMD_BIND), 0)) && (errno = error, failed("queue 7", &try)))
		;
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &group);
	end(&d);
	make(&d, NETLINK_NETFILTER);
	IOCTL(&d, NLMMAP_BIND, &groups);
	n = config(req, NFQNL_CFG_CMD_PF_BIND);
	AGAIN("write", write(d.fd, n, n->nlmsg_len));
	error = ack_of(buf, got(&d), seq);
	CHECK(error >= 0, "no answer");
	end(&d);
	/* What arrives is sifted, in a ring and without. */
	make(&d, NETLINK_ROUTE);
	bound(&d);
	rings(&d, 32768, 8192);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &near);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &far);
	links(&d);
	end(&d);
	make(&d, NETLINK_ROUTE);
	bound(&d);
	IOCTL(&d, NLMMAP_ADD_MEMBERSHIP, &far);
	n = request(req, RTM_GETLINK, 0, ++seq, sizeof(struct ifinfomsg));
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_index = 1;
	AGAIN("write", write(d.fd, n, n->nlmsg_len));
	wait_for(&d, now() + MS / 1e3);
	CHECK(got(&d) > 0 && ((struct nlmsghdr *)buf)->nlmsg_type == RTM_NEWLINK, "type %u", ((struct nlmsghdr *)buf)->nlmsg_type);
	end(&d);
	make(&d, NETLINK_GENERIC);
	bound(&d);
	n = request(&family, GENL_ID_CTRL, 0, ++seq, sizeof family - sizeof family.n);
	family.g = (struct genlmsghdr){ CTRL_CMD_GETFAMILY, 1, 0 };
	family.a = (struct nlattr){ sizeof family.a + sizeof family.name, CTRL_ATTR_FAMILY_NAME };
	memcpy(family.name, "nlctrl", 7);
	AGAIN("write", write(d.fd, n, n->nlmsg_len));
	CHECK(got(&d) > 0 && ((struct nlmsghdr *)buf)->nlmsg_type == GENL_ID_CTRL, "type %u", ((struct nlmsghdr *)buf)->nlmsg_type);
	end(&d);
}

static void witness(void)
{
	static char out[1 << 12];
	struct device d;
	unsigned port, to, sent = 0, come = 0;
	struct pollfd input = { .fd = 0, .events = POLLIN };
	int from = plain_socket(&port);
	double until;
	make(&d, NETLINK_USERSOCK);
	to = bound(&d);
	rings(&d, 1 << 16, 2048);
	puts("ready");
	fflush(stdout);
	until = now() + MS / 1e3;
	while (poll(&input, 1, 1) == 0 || come < sent) {
		if (sent - come < 8)
			say(from, to, sent++, 100);
		while (status_of(frame_at(&d, 0, d.rx)) == NL_MMAP_STATUS_VALID) {
			struct nl_mmap_hdr *h = frame_at(&d, 0, d.rx);
			memcpy(buf, (char *)h + NL_MMAP_HDRLEN, h->nm_len);
			heard(h->nm_len, come++, 100);
			set_status(h, NL_MMAP_STATUS_UNUSED);
			d.rx++;
			until = now() + MS / 1e3;
		}
		CHECK(now() < until, "message %u of %u has not come", come, sent);
	}
	snprintf(out, sizeof out, "%u messages", come);
	puts(out);
	end(&d);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } modes[] = {
		{ "calls", calls }, { "plain", plain }, { "user", user }, { "granted", granted }, { "witness", witness },
	};
	CHECK(argc == 3, "usage: %s NODE MODE", argv[0]);
	node = argv[1];
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (!strcmp(argv[2], modes[i].name)) {
			modes[i].run();
			return 0;
		}
	DIE("no such mode: %s", argv[2]);
}
