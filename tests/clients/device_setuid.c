/* device_setuid NODE|own rights|granted PROGRAM: what a set-user-id-root program has through the node, and whoever it hands an
 * open file to. Started by an unprivileged user; PROGRAM is this one with the bit. `own`: the same by sockets of its own, whose
 * answers must be the same.
 * rights    its own rights: loopback is set up, or not
 * granted   rules: queue 7 for root, queue 9 for user 1001 (tests/device/deputy.rs) */
#include "device.h"
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const char *node, *program;
static int netfilter;
static unsigned seq;

static int begin(void)
{
	struct nlmmap_socket s = { SOCK_RAW, netfilter ? NETLINK_NETFILTER : NETLINK_ROUTE };
	int fd;
	if (!strcmp(node, "own")) {
		CALL(fd = socket(AF_NETLINK, SOCK_RAW, s.protocol));
		return fd;
	}
	/* No O_CLOEXEC: some go on with it. */
	CALL(fd = open(node, O_RDWR));
	CALL(ioctl(fd, NLMMAP_SOCKET, &s));
	return fd;
}

/* Sends a request and gives the errno of its acknowledgement. */
static int ask(int fd, const struct nlmsghdr *n)
{
	char buf[8192];
	ssize_t len;
	int ack;
	CHECK(write(fd, n, n->nlmsg_len) == (ssize_t)n->nlmsg_len, "write: %s", strerror(errno));
	do
		CALL(len = read(fd, buf, sizeof buf));
	while ((ack = ack_of(buf, len, n->nlmsg_seq)) < 0);
	return ack;
}

static int set_link(int fd)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_SETLINK, NLM_F_ACK, ++seq + getpid() * 64, sizeof(struct ifinfomsg));
	struct ifinfomsg *i = NLMSG_DATA(n);
	i->ifi_index = 1;
	i->ifi_flags = i->ifi_change = 1; /* IFF_UP */
	return ask(fd, n);
}

static int bind_queue(int fd, unsigned queue)
{
	char req[64];
	struct nlmsghdr *n = request(req, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, ++seq + getpid() * 64, sizeof(struct nfgenmsg) + 8);
	struct nfgenmsg *g = NLMSG_DATA(n);
	struct nlattr *a = (void *)(g + 1);
	*g = (struct nfgenmsg){ AF_UNSPEC, NFNETLINK_V0, htons(queue) };
	*a = (struct nlattr){ 8, NFQA_CFG_CMD };
	*(struct nfqnl_msg_config_cmd *)(a + 1) = (struct nfqnl_msg_config_cmd){ NFQNL_CFG_CMD_BIND, 0, htons(AF_INET) };
	return ask(fd, n);
}

#define ANSWERS(call, wanted, what) do { int got_ = (call); CHECK(got_ == (wanted), "%s: %s answers %s, not %s", what, #call, strerror(got_), strerror(wanted)); } while (0)

static void drop_for_good(void)
{
	uid_t uid = getuid();
	CHECK(uid != 0 && geteuid() == 0, "uid %d, effective %d: is the file system mounted nosuid?", uid, geteuid());
	CALL(setresuid(uid, uid, uid));
}

/* Root still, by its ids alone. */
static void drop_capabilities(void)
{
	unsigned head[2] = { 0x20080522, 0 }, data[6] = { 0 };
	CALL(syscall(SYS_capset, head, data));
}

static void become_program(const char *path, const char *what, int fd)
{
	char number[16];
	snprintf(number, sizeof number, "%d", fd);
	execl(path, path, node, what, program, number, (char *)NULL);
	DIE("%s: %s", path, strerror(errno));
}

/* An exec without the bit, by the unprivileged user, that has inherited an open file. */
static void inherited(int fd)
{
	CHECK(geteuid() != 0 && getuid() == geteuid(), "it is privileged");
	if (netfilter) {
		ANSWERS(bind_queue(fd, 7), EPERM, "inherited from root");
		ANSWERS(bind_queue(fd, 9), EPERM, "inherited from root");
	} else {
		ANSWERS(set_link(fd), EPERM, "inherited from root");
	}
}

/* With the bit: what it opens is its own, until it gives its rights up. */
static void privileged(const char *self)
{
	int fd = begin(), status, i;
	uid_t uid = getuid();
	pid_t pid;
	ANSWERS(set_link(fd), 0, "a set-user-id program");
	for (i = 0; i < 3; i++) {
		CALL(seteuid(uid));
		ANSWERS(set_link(fd), EPERM, "as its user for a while");
		CALL(seteuid(0));
		ANSWERS(set_link(fd), 0, "as root again");
	}
	/* The same open file in two processes at once: each has what it is. */
	CALL(pid = fork());
	if (pid == 0) {
		drop_for_good();
		for (i = 0; i < 5; i++)
			ANSWERS(set_link(fd), EPERM, "a child that dropped its rights");
		exit(0);
	}
	CALL(waitpid(pid, &status, 0));
	CHECK(status == 0, "the child: status %#x", status);
	ANSWERS(set_link(fd), 0, "the parent that kept them");
	drop_for_good();
	ANSWERS(set_link(fd), EPERM, "after dropping for good");
	close(begin());
	become_program(self, "inherited", fd);
}

/* Its standard output is an open file of whoever started it. */
static void deputy(void)
{
	CHECK(geteuid() == 0, "not privileged: is the file system mounted nosuid?");
	ANSWERS(set_link(STDOUT_FILENO), EPERM, "an unprivileged user's open file, used by root");
	/* What it opens itself it may use. */
	ANSWERS(set_link(begin()), 0, "its own beside it");
	ANSWERS(set_link(STDOUT_FILENO), EPERM, "an unprivileged user's open file, again");
}

static void granted(const char *self)
{
	int fd, again;
	CHECK(geteuid() == 0, "not privileged: is the file system mounted nosuid?");
	drop_capabilities();
	fd = begin();
	ANSWERS(bind_queue(fd, 7), 0, "root's grant");
	ANSWERS(bind_queue(fd, 9), EPERM, "the user's grant, while it is root");
	CALL(setresuid(getuid(), getuid(), getuid()));
	ANSWERS(bind_queue(fd, 7), EPERM, "root's grant, after dropping");
	ANSWERS(bind_queue(fd, 9), EPERM, "the user's grant, through what root opened");
	again = begin();
	ANSWERS(bind_queue(again, 7), EPERM, "root's grant");
	ANSWERS(bind_queue(again, 9), 0, "the user's own grant");
	close(again);
	become_program(self, "inherited", fd);
}

static void as_child(void (*what)(const char *), const char *argument)
{
	int status;
	pid_t pid;
	CALL(pid = fork());
	if (pid == 0) {
		what(argument);
		exit(0);
	}
	CALL(waitpid(pid, &status, 0));
	CHECK(status == 0, "status %#x", status);
}

static void start_program(const char *what)
{
	become_program(program, what, -1);
}

/* What the program writes to is a netlink socket of ours. */
static void start_deputy(const char *what)
{
	int fd = begin();
	ANSWERS(set_link(fd), EPERM, "an unprivileged user");
	CALL(dup2(fd, STDOUT_FILENO));
	become_program(program, what, -1);
}

int main(int argc, char **argv)
{
	static char self[4096];
	CHECK(argc >= 4, "usage: %s NODE|own rights|granted PROGRAM", argv[0]);
	node = argv[1];
	program = argv[3];
	/* Whoever execs the plain one again finds it beside the one with the bit. */
	snprintf(self, sizeof self, "%.*s/plain", (int)(strrchr(program, '/') - program), program);
	netfilter = strstr(argv[2], "granted") != NULL || getenv("NETFILTER") != NULL;
	if (netfilter)
		CALL(setenv("NETFILTER", "1", 1));
	alarm(50);
	if (!strcmp(argv[2], "privileged"))
		privileged(self);
	else if (!strcmp(argv[2], "deputy"))
		deputy();
	else if (!strcmp(argv[2], "with-granted"))
		granted(self);
	else if (!strcmp(argv[2], "inherited"))
		inherited(atoi(argv[4]));
	else {
		CHECK(getuid() != 0 && geteuid() != 0, "start it as an unprivileged user");
		if (netfilter) {
			as_child(start_program, "with-granted");
		} else {
			as_child(start_program, "privileged");
			as_child(start_deputy, "deputy");
		}
		puts("nothing is lent");
	}
	return 0;
}
