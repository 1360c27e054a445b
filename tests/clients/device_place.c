/* device_place NODE: a message through the node gets the answer that the same client gets on a socket of its own, wherever the
 * client is. Runs as root in a network namespace of its own (and the processes that it makes in others); each case in a
 * child. */
#include "device.h"
#include <pthread.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/genetlink.h>
#include <linux/net_namespace.h>
#include <linux/taskstats.h>
#include <net/if.h>
#include <grp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static char buf[1 << 16];

/* One way to talk netlink: a socket, or the node. */
struct talk {
	int fd, node;
};

static struct talk own(int protocol)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	struct timeval limit = { .tv_sec = 5 };
	struct talk t = { .node = 0 };
	CALL(t.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
	CALL(bind(t.fd, (void *)&any, sizeof any));
	CALL(setsockopt(t.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	return t;
}

static struct talk through(const char *node, int protocol)
{
	struct device d;
	struct talk t = { .node = 1 };
	device_open(&d, node, protocol);
	t.fd = d.fd;
	return t;
}

static void use(struct talk *t, int fd, int protocol)
{
	struct nlmmap_socket s = { SOCK_RAW, protocol };
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	t->fd = fd;
	t->node = 1;
	CALL(ioctl(fd, NLMMAP_SOCKET, &s));
	CALL(ioctl(fd, NLMMAP_BIND, &any));
}

/* Sends; 0, or the errno of that. */
static int say(struct talk t, const void *message, size_t len)
{
	return write(t.fd, message, len) == (ssize_t)len ? 0 : errno;
}

/* The next message, 0 when none comes within so many ms. */
static size_t hear(struct talk t, int ms)
{
	struct pollfd p = { .fd = t.fd, .events = POLLIN };
	ssize_t n;
	if (poll(&p, 1, ms) <= 0)
		return 0;
	CALL(n = read(t.fd, buf, sizeof buf));
	return n;
}

/* Sends a request and answers the errno of sending, or that of the acknowledgement; -1 for another answer. */
static int ask(struct talk t, struct nlmsghdr *n)
{
	static unsigned seq = 100;
	size_t got;
	int error;
	n->nlmsg_seq = ++seq;
	if ((error = say(t, n, n->nlmsg_len)))
		return error;
	while ((got = hear(t, 5000))) {
		struct nlmsghdr *a = (void *)buf;
		if (a->nlmsg_seq != seq)
			continue;
		return a->nlmsg_type == NLMSG_ERROR ? ack_of(buf, got, seq) : -1;
	}
	DIE("no answer to a message of type %u", n->nlmsg_type);
}

static struct nlattr *attribute(struct nlmsghdr *n, int type, const void *data, size_t len)
{
	struct nlattr *a = (void *)((char *)n + NLMSG_ALIGN(n->nlmsg_len));
	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	memcpy((char *)a + NLA_HDRLEN, data, len);
	n->nlmsg_len = NLMSG_ALIGN(n->nlmsg_len) + NLA_ALIGN(a->nla_len);
	return a;
}

static void become(int id)
{
	CALL(setgroups(0, NULL));
	CALL(setresgid(id, id, id));
	CALL(setresuid(id, id, id));
}

/* Goes on in a child of a pid namespace of its own. */
static void in_pid_namespace(void)
{
	int status;
	pid_t pid;
	CALL(unshare(CLONE_NEWPID));
	CALL(pid = fork());
	if (pid == 0)
		return;
	CALL(waitpid(pid, &status, 0));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static int link_up(struct talk t)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_NEWLINK, NLM_F_ACK, 0, sizeof(struct ifinfomsg));
	struct ifinfomsg *i = NLMSG_DATA(n);
	i->ifi_index = 1;
	i->ifi_flags = i->ifi_change = IFF_UP;
	return ask(t, n);
}

/* 1: a process without capabilities in a user and network namespace of its own user's. */
static void sandboxed(const char *node)
{
	struct talk t, late;
	int fd, status;
	pid_t pid;
	become(65534);
	t = through(node, NETLINK_ROUTE);
	CALL(fd = open(node, O_RDWR));
	CALL(unshare(CLONE_NEWUSER | CLONE_NEWNET));
	CHECK(link_up(own(NETLINK_ROUTE)) == 0, "with its capabilities it may");
	CALL(pid = fork());
	if (pid == 0) {
		unsigned header[2] = { 0x20080522, 0 }, data[6] = { 0 };
		CALL(syscall(SYS_capset, header, data));
		CHECK(link_up(own(NETLINK_ROUTE)) == EPERM, "its own socket");
		/* A socket made here, and one made outside. */
		use(&late, fd, NETLINK_ROUTE);
		CHECK(link_up(late) == EPERM, "through a node that it inherited");
		CHECK(link_up(t) == EPERM, "through a socket that it inherited");
		CHECK(link_up(through(node, NETLINK_ROUTE)) == EPERM, "through a node that it opened");
		exit(0);
	}
	CALL(waitpid(pid, &status, 0));
	CHECK(status == 0, "the child: %#x", status);
	/* With all capabilities of this namespace, but through a node that was opened in another one. */
	CHECK(link_up(t) == EPERM, "an inherited socket, with capabilities that mean nothing to it");
	CHECK(link_up(through(node, NETLINK_ROUTE)) == 0, "root of a namespace, in it");
}

/* 2: process events from inside a pid namespace. */
static int events(struct talk t)
{
	struct {
		struct nlmsghdr n;
		struct cn_msg c;
		enum proc_cn_mcast_op op;
	} __attribute__((packed)) m = {
		{ sizeof m, NLMSG_DONE, 0, 0, 0 }, { { CN_IDX_PROC, CN_VAL_PROC }, 0, 0, sizeof m.op, 0 }, PROC_CN_MCAST_LISTEN
	};
	int i, status, count = 0;
	if (say(t, &m, sizeof m))
		return -errno;
	for (i = 0; i < 3; i++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		CALL(waitpid(pid, &status, 0));
	}
	while (hear(t, 300))
		count++;
	return count;
}

static struct talk listener(const char *node)
{
	struct talk t = node ? through(node, NETLINK_CONNECTOR) : own(NETLINK_CONNECTOR);
	unsigned group = CN_IDX_PROC;
	if (node)
		(void)!ioctl(t.fd, NLMMAP_ADD_MEMBERSHIP, &group);
	else
		(void)!setsockopt(t.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);
	return t;
}

static void host_events(const char *node)
{
	int mine, theirs;
	in_pid_namespace();
	become(65534);
	mine = events(listener(NULL));
	theirs = events(listener(node));
	CHECK(mine == 0 && theirs == 0, "process events: %d by a socket, %d through the node", mine, theirs);
}

/* 3: task statistics of a process outside. */
static int taskstats_of(struct talk t, unsigned pid)
{
	char req[256];
	struct nlmsghdr *n = request(req, GENL_ID_CTRL, NLM_F_ACK, 0, GENL_HDRLEN);
	struct genlmsghdr *g = NLMSG_DATA(n);
	unsigned short family = 0;
	struct nlattr *a;
	g->cmd = CTRL_CMD_GETFAMILY;
	attribute(n, CTRL_ATTR_FAMILY_NAME, TASKSTATS_GENL_NAME, sizeof TASKSTATS_GENL_NAME);
	if (ask(t, n) != -1)
		return -2;
	for (a = (void *)(buf + NLMSG_LENGTH(GENL_HDRLEN)); !family; a = (void *)((char *)a + NLA_ALIGN(a->nla_len)))
		if (a->nla_type == CTRL_ATTR_FAMILY_ID)
			family = *(unsigned short *)((char *)a + NLA_HDRLEN);
	hear(t, 100); /* the acknowledgement */
	n = request(req, family, NLM_F_ACK, 0, GENL_HDRLEN);
	((struct genlmsghdr *)NLMSG_DATA(n))->cmd = TASKSTATS_CMD_GET;
	attribute(n, TASKSTATS_CMD_ATTR_PID, &pid, sizeof pid);
	return ask(t, n);
}

static void host_tasks(const char *node)
{
	unsigned outside = getppid(), i;
	in_pid_namespace();
	/* Numbers that mean something outside; in here there is one process, and the node's worker. */
	for (i = 0; i < 40; i++) {
		int mine = taskstats_of(own(NETLINK_GENERIC), outside + i);
		int theirs = taskstats_of(through(node, NETLINK_GENERIC), outside + i);
		if (mine == -2)
			return;
		CHECK(mine == ESRCH && theirs == ESRCH, "pid %u: %d by a socket, %d through the node", outside + i, mine, theirs);
	}
}

/* 4: namespaces by descriptor and by process. */
static int nsid(struct talk t, int type, unsigned value, int second)
{
	char req[256];
	struct nlmsghdr *n = (void *)req;
	if (second) {
		/* Behind another message of the same datagram. */
		struct nlmsghdr *first = request(req, NLMSG_NOOP, 0, 0, 0);
		n = (void *)(req + first->nlmsg_len);
	}
	request(n, RTM_GETNSID, NLM_F_ACK, 0, sizeof(struct rtgenmsg));
	attribute(n, type, &value, sizeof value);
	if (!second)
		return ask(t, n);
	n->nlmsg_seq = 7;
	if (write(t.fd, req, (char *)n + n->nlmsg_len - req) < 0)
		return errno;
	while (1) {
		size_t got = hear(t, 5000);
		CHECK(got, "no answer");
		if (((struct nlmsghdr *)buf)->nlmsg_seq == 7)
			return ((struct nlmsghdr *)buf)->nlmsg_type == NLMSG_ERROR ? ack_of(buf, got, 7) : -1;
	}
}

static void tables(const char *node)
{
	unsigned i, found = 0;
	int fd, second;
	in_pid_namespace();
	become(65534);
	CALL(fd = open("/proc/self/ns/net", O_RDONLY));
	for (second = 0; second < 2; second++) {
		struct talk t = through(node, NETLINK_ROUTE);
		/* Whatever the number means here or there, a message that names one is not sent. */
		for (i = 0; i < 64; i++) {
			int error = nsid(t, NETNSA_FD, i, second);
			CHECK(error == EPERM, "descriptor %u: %d", i, error);
		}
		CHECK(nsid(t, NETNSA_PID, getpid(), second) == -1, "a process");
		close(t.fd);
	}
	for (i = 1; i < 3000; i++) {
		int mine, theirs;
		static struct talk s, d;
		if (i == 1) {
			s = own(NETLINK_ROUTE);
			d = through(node, NETLINK_ROUTE);
		}
		mine = nsid(s, NETNSA_PID, i, 0);
		theirs = nsid(d, NETNSA_PID, i, 0);
		found += mine == -1;
		CHECK(mine == theirs, "process %u: %d by a socket, %d through the node", i, mine, theirs);
	}
	CHECK(found >= 1 && found <= 2, "%u processes in a namespace of one, and the worker", found);
}

static volatile int flipping = 1;

/* Changes which attribute a frame holds, as fast as it can. */
static void *flip(void *arg)
{
	volatile unsigned short *type = arg;
	while (flipping) {
		*type = NETNSA_FD;
		*type = NETNSA_PID;
	}
	return NULL;
}

/* A transmit ring of one block. False where the rings lie in the client's own memory: it is the same code. */
static int transmit(struct device *d, const char *node, unsigned frame)
{
	struct nlmmap_map_info info;
	device_open(d, node, NETLINK_ROUTE);
	d->req = (struct nl_mmap_req){ 4096, 1, frame, 4096 / frame };
	CALL(ioctl(d->fd, NLMMAP_TX_RING, &d->req));
	CALL(ioctl(d->fd, NLMMAP_MAP_INFO, &info));
	if (info.how == NLMMAP_MAP_MEMORY)
		return 0;
	d->rings = mmap(NULL, info.tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
	CHECK(d->rings != MAP_FAILED, "mmap: %s", strerror(errno));
	return 1;
}

static void *put(struct device *d, unsigned pos, const void *message)
{
	struct nl_mmap_hdr *h = frame_at(d, 0, pos);
	h->nm_len = ((const struct nlmsghdr *)message)->nlmsg_len;
	memcpy((char *)h + NL_MMAP_HDRLEN, message, h->nm_len);
	set_status(h, NL_MMAP_STATUS_VALID);
	return (char *)h + NL_MMAP_HDRLEN;
}

/* The same by frames: in the middle of others, and changed while it is looked at. */
static void frames(const char *node)
{
	struct nlmmap_kick none = { .sent = 0 };
	struct device d;
	char req[3][64], answer[8192];
	unsigned i, refused = 0, answered = 0, value = getpid();
	pthread_t thread;
	char *message;
	request(req[0], NLMSG_NOOP, NLM_F_ACK, 1, 0);
	attribute(request(req[1], RTM_GETNSID, NLM_F_ACK, 2, sizeof(struct rtgenmsg)), NETNSA_FD, &value, sizeof value);
	request(req[2], NLMSG_NOOP, NLM_F_ACK, 3, 0);
	if (!transmit(&d, node, 1024))
		return;
	for (i = 0; i < 3; i++)
		put(&d, i, req[i]);
	CHECK(ioctl(d.fd, NLMMAP_KICK, &none) < 0 && errno == EPERM, "a frame that names a descriptor");
	CHECK(ack_of(answer, read(d.fd, answer, sizeof answer), 1) == 0, "the one before it");
	CHECK(status_of(frame_at(&d, 0, 1)) == NL_MMAP_STATUS_UNUSED, "it is gone");
	CALL(ioctl(d.fd, NLMMAP_KICK, &none));
	CHECK(ack_of(answer, read(d.fd, answer, sizeof answer), 3) == 0, "the one behind it");
	close(d.fd);
	transmit(&d, node, 4096);
	CALL(fcntl(d.fd, F_SETFL, O_NONBLOCK));
	message = put(&d, 0, req[1]);
	CHECK(!pthread_create(&thread, NULL, flip, message + NLMSG_LENGTH(4) + 2), "pthread_create");
	for (i = 0; i < 20000 && !(i > 4000 && refused && answered); i++) {
		ssize_t got;
		set_status(frame_at(&d, 0, 0), NL_MMAP_STATUS_VALID);
		if (ioctl(d.fd, NLMMAP_KICK, &none) < 0) {
			CHECK(errno == EPERM, "a kick: %s", strerror(errno));
			refused++;
		}
		while ((got = read(d.fd, answer, sizeof answer)) >= 0) {
			int error = ack_of(answer, got, 2);
			CHECK(error != EBADF && error != EINVAL, "a descriptor was looked for: %d", error);
			answered++;
		}
	}
	flipping = 0;
	pthread_join(thread, NULL);
	CHECK(refused && answered, "%u refused, %u answered", refused, answered);
}

int main(int argc, char **argv)
{
	void (*cases[])(const char *) = { sandboxed, host_events, host_tasks, tables, frames };
	unsigned i;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	for (i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;
		pid_t pid = fork();
		CALL(pid);
		if (pid == 0) {
			CALL(unshare(i == 0 || i >= 3 ? CLONE_NEWNET : 0));
			cases[i](argv[1]);
			exit(0);
		}
		CALL(waitpid(pid, &status, 0));
		CHECK(status == 0, "case %u failed", i + 1);
	}
	puts("answers are the client's own");
	return 0;
}
