/* device_table HOW WHO: sends a message of every type that a netlink family of this kernel may have, joins every group, and
 * prints how each was answered, one a line. HOW is "own", for a socket of its own, or the path of a node. WHO is
 * user      somebody without capabilities
 * contained the same in a pid namespace
 * ruler     root of a user and network namespace of its own
 * sandboxed somebody without capabilities in such a namespace, with open files from outside
 * What is printed has to be the same for both. Runs as root. */
#include "device.h"
#include <grp.h>
#include <linux/genetlink.h>
#include <linux/if_link.h>
#include <linux/inet_diag.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const char *how;
static int outside[80], inherited;
static char buf[1 << 20];

static int make(int protocol)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	struct nlmmap_socket s = { SOCK_RAW, protocol };
	int fd;
	if (!strcmp(how, "own")) {
		if ((fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol)) < 0)
			return -errno;
		CALL(bind(fd, (void *)&any, sizeof any));
	} else {
		fd = inherited ? outside[--inherited] : open(how, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		CALL(fd);
		if (ioctl(fd, NLMMAP_SOCKET, &s)) {
			int error = errno;
			close(fd);
			return -error;
		}
		CALL(ioctl(fd, NLMMAP_BIND, &any));
	}
	return fd;
}

static int join(int fd, unsigned group)
{
	int error = strcmp(how, "own") ? ioctl(fd, NLMMAP_ADD_MEMBERSHIP, &group)
				       : setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);
	return error ? errno : 0;
}

/* Whether something can be read, now or within so many ms. */
static int ready(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, ms) == 1;
}

/* Sends, and prints the first answer, which the kernel gives before the send returns. Then whatever else comes is taken, so that the next message has a clean start. */
static void ask(int fd, const char *family, struct nlmsghdr *n, size_t len, int ms)
{
	ssize_t got;
	printf("%s type %u flags %#x len %zu: ", family, n->nlmsg_type, n->nlmsg_flags, len);
	if (write(fd, n, len) < 0) {
		printf("send %s\n", strerror(errno));
	} else if (!ready(fd, ms)) {
		printf("silence\n");
	} else if ((got = read(fd, buf, sizeof buf)) < 0) {
		printf("read %s\n", strerror(errno));
	} else {
		struct nlmsghdr *a = (void *)buf;
		if (a->nlmsg_type == NLMSG_ERROR)
			printf("error %d\n", ((struct nlmsgerr *)NLMSG_DATA(a))->error);
		else
			printf("answer of type %u\n", a->nlmsg_type);
	}
	while (ready(fd, 0) && (read(fd, buf, sizeof buf) >= 0 || errno == ENOBUFS))
		;
}

static char message[512];

/* A message whose fixed part begins with these bytes. */
static struct nlmsghdr *fill(unsigned type, unsigned flags, const void *fixed, size_t len, size_t whole)
{
	struct nlmsghdr *n = (void *)message;
	memset(message, 0, sizeof message);
	*n = (struct nlmsghdr){ NLMSG_LENGTH(whole), type, NLM_F_REQUEST | flags, 1, 0 };
	memcpy(NLMSG_DATA(n), fixed, len);
	return n;
}

static void both(int fd, const char *family, unsigned type, const void *fixed, size_t len, size_t whole)
{
	static const unsigned flags[] = { NLM_F_ACK, NLM_F_DUMP };
	unsigned i;
	for (i = 0; i < 2; i++) {
		struct nlmsghdr *n = fill(type, flags[i], fixed, len, whole);
		ask(fd, family, n, n->nlmsg_len, 100);
	}
}

static void route(int fd)
{
	static const int processes[] = { 1, 2, 3, 100, 100000 };
	unsigned type, i;
	for (type = 16; type < 128; type++)
		both(fd, "route", type, "", 0, 32);
	/* Whoever these numbers are: they mean the same. */
	for (i = 0; i < sizeof processes / sizeof *processes; i++) {
		struct ifinfomsg link = { .ifi_index = 1 };
		struct nlmsghdr *n = fill(RTM_NEWLINK, NLM_F_ACK, &link, sizeof link, sizeof link);
		struct nlattr *a = (void *)(message + n->nlmsg_len);
		*a = (struct nlattr){ NLA_HDRLEN + 4, IFLA_NET_NS_PID };
		memcpy(a + 1, &processes[i], 4);
		n->nlmsg_len += NLA_HDRLEN + 4;
		ask(fd, "route into the namespace of a process", n, n->nlmsg_len, 100);
	}
}

static void diag(int fd)
{
	static const unsigned char families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, 30, 40, 43, 44 };
	unsigned type, i;
	for (type = 18; type < 22; type++)
		for (i = 0; i < sizeof families; i++) {
			struct inet_diag_req_v2 req = { .sdiag_family = families[i], .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 };
			both(fd, "diag", type, &req, sizeof req, sizeof req);
		}
}

static void netfilter(int fd)
{
	unsigned subsystem, type;
	for (subsystem = 0; subsystem < 14; subsystem++)
		for (type = 0; type < 32; type++)
			both(fd, "netfilter", subsystem << 8 | type, &(struct nfgenmsg){ AF_INET, 0, 0 }, 4, 4);
}

static void generic(int fd)
{
	struct nlmsghdr *n = fill(GENL_ID_CTRL, NLM_F_DUMP, &(struct genlmsghdr){ CTRL_CMD_GETFAMILY, 1, 0 }, 4, 4);
	unsigned char known[1 << 16] = { 0 };
	unsigned id, command;
	ssize_t got;
	CALL(write(fd, n, n->nlmsg_len));
	while (ready(fd, 100) && (got = read(fd, buf, sizeof buf)) > 0) {
		for (n = (void *)buf; NLMSG_OK(n, (unsigned)got); n = NLMSG_NEXT(n, got)) {
			char *at = (char *)n + NLMSG_LENGTH(GENL_HDRLEN), *end = (char *)n + n->nlmsg_len;
			unsigned handshakes = 0;
			if (n->nlmsg_type == NLMSG_DONE)
				goto done;
			id = 0;
			for (; at < end; at += NLA_ALIGN(((struct nlattr *)at)->nla_len)) {
				if (((struct nlattr *)at)->nla_type == CTRL_ATTR_FAMILY_ID)
					id = *(unsigned short *)(at + NLA_HDRLEN);
				if (((struct nlattr *)at)->nla_type == CTRL_ATTR_FAMILY_NAME)
					handshakes = !strcmp(at + NLA_HDRLEN, "handshake");
			}
			known[id] = 1 + handshakes;
		}
	}
done:
	for (id = 16; id < 1 << 16; id++)
		for (command = 0; known[id] && command < 48; command++) {
			/* HANDSHAKE_CMD_ACCEPT gives its sender a descriptor. By a node that would be the worker: it is not sent. */
			if (known[id] == 2 && command == 2) {
				n = fill(id, 0, &(struct genlmsghdr){ command, 1, 0 }, 4, 4);
				if (strcmp(how, "own"))
					CHECK(write(fd, n, n->nlmsg_len) < 0 && errno == EPERM, "ACCEPT was sent");
				continue;
			}
			both(fd, "generic", id, &(struct genlmsghdr){ command, 1, 0 }, 4, 4);
		}
}

static void range(int fd, const char *family, unsigned from, unsigned to, int ms)
{
	unsigned type;
	for (type = from; type < to; type++) {
		struct nlmsghdr *n = fill(type, NLM_F_ACK, "", 0, 64);
		ask(fd, family, n, n->nlmsg_len, ms);
	}
}

static void rdma(int fd)
{
	unsigned client;
	for (client = 1; client < 7; client++)
		range(fd, "rdma", client << 10, (client << 10) + 24, 100);
}

static void table(void)
{
	int protocol;
	for (protocol = 0; protocol < 32; protocol++) {
		int fd = make(protocol);
		unsigned group;
		char name[32];
		if (fd < 0) {
			printf("protocol %d: %s\n", protocol, strerror(-fd));
			continue;
		}
		sprintf(name, "protocol %d", protocol);
		switch (protocol) {
		case NETLINK_ROUTE: route(fd); break;
		case NETLINK_SOCK_DIAG: diag(fd); break;
		case NETLINK_XFRM: range(fd, name, 16, 42, 100); break;
		case NETLINK_AUDIT: range(fd, name, 1000, 1024, 100); break;
		case NETLINK_NETFILTER: netfilter(fd); break;
		case NETLINK_GENERIC: generic(fd); break;
		case NETLINK_RDMA: rdma(fd); break;
		case NETLINK_CRYPTO: range(fd, name, 16, 22, 100); break;
		/* Answers by none, or by themselves. */
		default: range(fd, name, 16, 22, 20); break;
		}
		close(fd);
		CHECK((fd = make(protocol)) >= 0, "a second socket");
		for (group = 1; group <= 40; group++)
			printf("%s group %u: %s\n", name, group, strerror(join(fd, group)));
		close(fd);
	}
}

int main(int argc, char **argv)
{
	int status;
	pid_t pid;
	CHECK(argc == 3, "usage: %s own|NODE user|contained|ruler|sandboxed", argv[0]);
	how = argv[1];
	CALL(unshare(CLONE_NEWNET));
	if (!strcmp(argv[2], "contained")) {
		CALL(unshare(CLONE_NEWPID));
		CALL(pid = fork());
		if (pid) {
			CALL(waitpid(pid, &status, 0));
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		}
	}
	CALL(setgroups(0, NULL));
	CALL(setresgid(65534, 65534, 65534));
	CALL(setresuid(65534, 65534, 65534));
	if (!strcmp(argv[2], "sandboxed") && strcmp(how, "own"))
		while (inherited < 80)
			CALL(outside[inherited++] = open(how, O_RDWR | O_CLOEXEC | O_NONBLOCK));
	if (!strcmp(argv[2], "sandboxed") || !strcmp(argv[2], "ruler"))
		CALL(unshare(CLONE_NEWUSER | CLONE_NEWNET));
	if (!strcmp(argv[2], "sandboxed")) {
		unsigned header[2] = { 0x20080522, 0 }, data[6] = { 0 };
		CALL(syscall(SYS_capset, header, data));
	}
	table();
	return 0;
}
