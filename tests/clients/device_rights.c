/* device_rights NODE: what a client may through the device is what it may by itself. Runs as root, in a network namespace
 * of its own; each case in a child. */
#include "device.h"
#include <net/if.h>
#include <sched.h>
#include <sys/wait.h>

static char buf[1 << 16];
static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

/* Sets loopback up, by way w: 0 write, 1 kick, 2 kick with the kernel's address. The errno of the acknowledgement. */
static int set_link(struct device *d, unsigned seq, int w)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_SETLINK, NLM_F_ACK, seq, sizeof(struct ifinfomsg));
	struct ifinfomsg *i = NLMSG_DATA(n);
	int ack;
	i->ifi_index = 1;
	i->ifi_flags = i->ifi_change = IFF_UP;
	if (w == 0)
		CALL(write(d->fd, n, n->nlmsg_len));
	else
		CHECK(!device_send(d, n, w == 2 ? &kernel : NULL), "kick");
	while ((ack = ack_of(buf, device_next(d, buf, sizeof buf, wait_poll), seq)) < 0)
		;
	return ack;
}

static void expect(struct device *d, int wanted, const char *what)
{
	static unsigned seq = 100;
	int w, got;
	for (w = 0; w < 3; w++)
		CHECK((got = set_link(d, ++seq, w)) == wanted, "%s, way %d: acknowledged %s, expected %s", what, w,
		      strerror(got), strerror(wanted));
}

static void dump_works(struct device *d)
{
	char req[64];
	struct nlmsghdr *n = request(req, RTM_GETLINK, NLM_F_DUMP, 7, sizeof(struct ifinfomsg));
	CHECK(!device_send(d, n, NULL), "kick");
	device_next(d, buf, sizeof buf, wait_poll);
	CHECK(((struct nlmsghdr *)buf)->nlmsg_type == RTM_NEWLINK, "type %u", ((struct nlmsghdr *)buf)->nlmsg_type);
	while (((struct nlmsghdr *)buf)->nlmsg_type != NLMSG_DONE)
		device_next(d, buf, sizeof buf, wait_poll);
}

static void become(int id)
{
	CALL(setresgid(id, id, id));
	CALL(setresuid(id, id, id));
}

static struct device ready(const char *node)
{
	struct device d;
	device_open(&d, node, NETLINK_ROUTE);
	device_rings(&d, 65536, 1, 8192);
	return d;
}

static void unprivileged(const char *node)
{
	struct device d;
	become(65534);
	d = ready(node);
	dump_works(&d);
	expect(&d, EPERM, "an unprivileged client");
}

static void privileged(const char *node)
{
	struct device d = ready(node);
	expect(&d, 0, "root");
}

static void dropped(const char *node)
{
	struct device d = ready(node);
	expect(&d, 0, "root, before");
	become(65534);
	expect(&d, EPERM, "a client that dropped its privileges");
	dump_works(&d);
	/* All capabilities, in a namespace where they mean nothing to this network. */
	CALL(unshare(CLONE_NEWUSER));
	expect(&d, EPERM, "the same in a user namespace of its own");
}

static void handed_on(const char *node)
{
	struct device d;
	/* Opened without privileges, used by a root process: what a set-user-id program's standard output would be. */
	CALL(setegid(65534));
	CALL(seteuid(65534));
	d = ready(node);
	CALL(seteuid(0));
	CALL(setegid(0));
	expect(&d, EPERM, "root, through a node that an unprivileged user opened");
}

static void elsewhere(const char *node)
{
	struct device d;
	become(65534);
	CALL(unshare(CLONE_NEWUSER));
	/* It has every capability, over nothing that this network belongs to. */
	d = ready(node);
	dump_works(&d);
	expect(&d, EPERM, "a client in a user namespace of its own");
}

static void root_of_its_own(const char *node)
{
	struct device d;
	become(65534);
	CALL(unshare(CLONE_NEWUSER | CLONE_NEWNET));
	d = ready(node);
	expect(&d, 0, "root of a network namespace of its own");
}

int main(int argc, char **argv)
{
	void (*cases[])(const char *) = { privileged, unprivileged, dropped, handed_on, elsewhere, root_of_its_own };
	unsigned i;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	CALL(unshare(CLONE_NEWNET));
	for (i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;
		pid_t pid = fork();
		CALL(pid);
		if (pid == 0) {
			cases[i](argv[1]);
			exit(0);
		}
		CALL(waitpid(pid, &status, 0));
		CHECK(status == 0, "case %u failed", i);
	}
	puts("rights are the client's");
	return 0;
}
