/* device_policy NODE MODE: what a policy with the rules of tests/device/policy.rs grants to whom.
 * granted    queue 7, the group conntrack_new and nothing else, by every way of sending
 * race       a message that changes in the ring while it is judged
 * rate N     N messages a second, of two sockets together
 * flood N S  N threads, each with an open file of its own, send long datagrams for S seconds
 * denied     requests that no rule grants: each has its error, with a ring and without
 * pass UID   an open file handed to another user, who has no grants; and one of his, used here */
#include "device.h"
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

static char buf[1 << 16];
static unsigned seq;

/* NFQNL_MSG_CONFIG with a command, for a queue. */
static struct nlmsghdr *config(void *to, unsigned queue, unsigned char command)
{
	struct nlmsghdr *n = request(to, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, ++seq, sizeof(struct nfgenmsg) + 8);
	struct nfgenmsg *g = NLMSG_DATA(n);
	struct nlattr *a = (void *)(g + 1);
	*g = (struct nfgenmsg){ AF_UNSPEC, NFNETLINK_V0, htons(queue) };
	*a = (struct nlattr){ 8, NFQA_CFG_CMD };
	*(struct nfqnl_msg_config_cmd *)(a + 1) = (struct nfqnl_msg_config_cmd){ command, 0, htons(AF_INET) };
	return n;
}

/* The error of the answer to the last request. */
static int answer(struct device *d)
{
	size_t len = device_next(d, buf, sizeof buf, wait_poll);
	int error = ack_of(buf, len, seq);
	CHECK(error >= 0, "no answer to request %u but type %u", seq, ((struct nlmsghdr *)buf)->nlmsg_type);
	return error;
}

static int by_kick(struct device *d, const struct nlmsghdr *n)
{
	CHECK(device_send(d, n, NULL) == 0, "the kick: %s", strerror(errno));
	return answer(d);
}

static int by_write(struct device *d, const struct nlmsghdr *n)
{
	CHECK(write(d->fd, n, n->nlmsg_len) == (ssize_t)n->nlmsg_len, "write: %s", strerror(errno));
	return answer(d);
}

static int by_send(struct device *d, const struct nlmsghdr *n)
{
	struct {
		struct nlmmap_send s;
		char data[256];
	} a = { .s = { .flags = 0 } };
	memcpy(a.data, n, n->nlmsg_len);
	CHECK(!ioctl(d->fd, NLMMAP_SEND(n->nlmsg_len), &a), "NLMMAP_SEND: %s", strerror(errno));
	return answer(d);
}

/* Whether a queue is bound in this network namespace: descriptor 3 is its list, which only root may open. */
static int is_bound(unsigned queue)
{
	char text[4096], *line = text;
	int found = 0, n;
	CALL(lseek(3, 0, SEEK_SET));
	CALL(n = read(3, text, sizeof text - 1));
	text[n] = 0;
	for (; line && *line; line = strchr(line, '\n'), line += line != NULL)
		found |= strtoul(line, NULL, 10) == queue;
	return found;
}

static int join(int fd, unsigned group)
{
	return ioctl(fd, NLMMAP_ADD_MEMBERSHIP, &group) ? errno : 0;
}

static void granted(const char *node)
{
	static int (*const ways[])(struct device *, const struct nlmsghdr *) = { by_kick, by_write, by_send };
	struct nlmmap_kick kick = { .sent = 0 };
	struct sockaddr_nl groups = { .nl_family = AF_NETLINK, .nl_groups = 1 << (NFNLGRP_CONNTRACK_NEW - 1) };
	struct sockaddr_nl other = { .nl_family = AF_NETLINK, .nl_groups = 1 << (NFNLGRP_CONNTRACK_DESTROY - 1) };
	struct nlmmap_socket s = { SOCK_RAW, NETLINK_NETFILTER };
	char req[256], two[512];
	struct device d;
	unsigned i;
	size_t len;
	int fd;
	for (i = 0; i < 3; i++) {
		device_open(&d, node, NETLINK_NETFILTER);
		device_rings(&d, 65536, 1, 8192);
		CHECK(ways[i](&d, config(req, 8, NFQNL_CFG_CMD_BIND)) == EPERM, "way %u: queue 8 was bound", i);
		CHECK(ways[i](&d, config(req, 7, NFQNL_CFG_CMD_BIND)) == 0, "way %u: queue 7 was not bound", i);
		CHECK(is_bound(7) && !is_bound(8), "way %u: bound queues", i);
		/* Every old client binds the family first; the number is 0 then. */
		CHECK(ways[i](&d, config(req, 0, NFQNL_CFG_CMD_PF_BIND)) == 0, "way %u: PF_BIND", i);
		CHECK(ways[i](&d, request(req, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK, ++seq, 4)) == EPERM,
		      "way %u: statistics of connections", i);
		/* Two in one datagram, of which one is not granted: neither has the grant. */
		memcpy(two, config(req, 7, NFQNL_CFG_CMD_UNBIND), NLMSG_LENGTH(12));
		memcpy(two + NLMSG_LENGTH(12), config(req, 8, NFQNL_CFG_CMD_BIND), NLMSG_LENGTH(12));
		CALL(write(d.fd, two, 2 * NLMSG_LENGTH(12)));
		len = device_next(&d, buf, sizeof buf, wait_poll);
		CHECK(ack_of(buf, len, seq - 1) == EPERM, "way %u: two at once", i);
		CHECK(is_bound(7) && !is_bound(8), "way %u: bound queues after two at once", i);
		close(d.fd);
		while (is_bound(7))
			usleep(1000);
	}
	/* Several frames a kick, the second refused: each has its answer, in order. */
	device_open(&d, node, NETLINK_NETFILTER);
	device_rings(&d, 65536, 1, 8192);
	for (i = 0; i < 3; i++) {
		struct nl_mmap_hdr *h = frame_at(&d, d.rx_len, d.tx++);
		struct nlmsghdr *n = config((char *)h + NL_MMAP_HDRLEN, i == 1 ? 8 : 7, NFQNL_CFG_CMD_BIND);
		h->nm_len = n->nlmsg_len;
		set_status(h, NL_MMAP_STATUS_VALID);
	}
	CALL(ioctl(d.fd, NLMMAP_KICK, &kick));
	CHECK(kick.sent == 3 * NLMSG_LENGTH(12), "the kick sent %llu", (unsigned long long)kick.sent);
	for (i = 0, seq -= 2; i < 3; i++, seq++)
		CHECK((answer(&d) == EPERM) == (i == 1), "answer %u", i);
	seq--;
	/* A frame that no frame holds stays, as with every kick. */
	frame_at(&d, d.rx_len, d.tx)->nm_len = 1 << 20;
	set_status(frame_at(&d, d.rx_len, d.tx), NL_MMAP_STATUS_VALID);
	CHECK(ioctl(d.fd, NLMMAP_KICK, &kick) < 0 && errno == EINVAL, "a frame that lies: %s", strerror(errno));
	close(d.fd);

	CALL(fd = open(node, O_RDWR));
	CALL(ioctl(fd, NLMMAP_SOCKET, &s));
	CHECK(ioctl(fd, NLMMAP_BIND, &other) < 0 && errno == EPERM, "bound to a group that is not granted: %s", strerror(errno));
	CHECK(ioctl(fd, NLMMAP_BIND, &groups) == 0, "not bound to a group that is granted: %s", strerror(errno));
	CHECK(join(fd, NFNLGRP_CONNTRACK_NEW) == 0, "a granted group was not joined");
	CHECK(join(fd, NFNLGRP_CONNTRACK_DESTROY) == EPERM, "a group that is not granted");
	CHECK(join(fd, NFNLGRP_NFTABLES) == EPERM, "another");
	close(fd);

	device_open(&d, node, NETLINK_ROUTE);
	device_rings(&d, 65536, 1, 8192);
	request(req, RTM_NEWLINK, NLM_F_ACK, ++seq, sizeof(struct ifinfomsg));
	*(struct ifinfomsg *)NLMSG_DATA(req) = (struct ifinfomsg){ .ifi_index = 1, .ifi_flags = 0, .ifi_change = 1 };
	CHECK(by_kick(&d, (void *)req) == EPERM, "loopback was taken down");
	close(d.fd);
	puts("as granted");
}

/* A rate of so many messages a second: as many are granted at once, over two sockets, and few more; after a second again. */
static void rate(const char *node, int most)
{
	struct device d[2];
	char req[256];
	int i, granted, round;
	device_open(&d[0], node, NETLINK_NETFILTER);
	device_open(&d[1], node, NETLINK_NETFILTER);
	device_rings(&d[0], 65536, 1, 8192);
	device_rings(&d[1], 65536, 1, 8192);
	for (round = 0; round < 2; round++) {
		struct timespec before, after;
		double passed;
		clock_gettime(CLOCK_MONOTONIC, &before);
		for (i = granted = 0; i < 6 * most; i++)
			granted += by_kick(&d[i & 1], config(req, 0, NFQNL_CFG_CMD_PF_BIND)) != EPERM;
		clock_gettime(CLOCK_MONOTONIC, &after);
		passed = after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9;
		CHECK(granted >= most, "%d granted of %d", granted, most);
		CHECK(granted <= most + (int)(passed * most) + 2, "%d granted in %.2f s", granted, passed);
		usleep(1200000);
	}
}

static volatile int stop;

/* Long to judge, nothing to do for the kernel, and no answer. */
static void *send_much(void *node)
{
	enum { MANY = 400 };
	static __thread char data[MANY * NLMSG_SPACE(12)];
	struct device d;
	int i;
	device_open(&d, node, NETLINK_NETFILTER);
	for (i = 0; i < MANY; i++)
		config(data + i * NLMSG_SPACE(12), 0, NFQNL_CFG_CMD_PF_BIND)->nlmsg_flags = NLM_F_REQUEST;
	while (!stop)
		CHECK(write(d.fd, data, sizeof data) == sizeof data, "write: %s", strerror(errno));
	close(d.fd);
	return NULL;
}

static void flood(const char *node, int threads, int seconds)
{
	pthread_t all[64];
	int i;
	CHECK(threads <= 64, "at most 64 threads");
	for (i = 0; i < threads; i++)
		CHECK(!pthread_create(&all[i], NULL, send_much, (void *)node), "pthread_create");
	sleep(seconds);
	stop = 1;
	for (i = 0; i < threads; i++)
		pthread_join(all[i], NULL);
}

static void *flip(void *arg)
{
	struct device *d = arg;
	unsigned i;
	while (!stop)
		for (i = 0; i < d->req.nm_frame_nr; i++) {
			char *message = (char *)frame_at(d, d->rx_len, i) + NL_MMAP_HDRLEN;
			struct nfgenmsg *g = (void *)(message + NLMSG_HDRLEN);
			g->res_id ^= htons(7 ^ 8);
		}
	return NULL;
}

static void race(const char *node)
{
	struct nlmmap_kick kick;
	struct device d;
	pthread_t thread;
	unsigned i, bound = 0;
	device_open(&d, node, NETLINK_NETFILTER);
	device_rings(&d, 65536, 1, 4096);
	CHECK(!pthread_create(&thread, NULL, flip, &d), "pthread_create");
	for (i = 0; i < 1500; i++) {
		struct nl_mmap_hdr *h = frame_at(&d, d.rx_len, i);
		struct nlmsghdr *n = config((char *)h + NL_MMAP_HDRLEN, 7, i % 2 ? NFQNL_CFG_CMD_UNBIND : NFQNL_CFG_CMD_BIND);
		n->nlmsg_flags = NLM_F_REQUEST;
		h->nm_len = n->nlmsg_len;
		set_status(h, NL_MMAP_STATUS_VALID);
		memset(&kick, 0, sizeof kick);
		CALL(ioctl(d.fd, NLMMAP_KICK, &kick));
		while (status_of(frame_at(&d, 0, d.rx)) >= NL_MMAP_STATUS_VALID)
			set_status(frame_at(&d, 0, d.rx++), NL_MMAP_STATUS_UNUSED);
		bound |= is_bound(7);
		CHECK(!is_bound(8), "queue 8 was bound in round %u", i);
	}
	stop = 1;
	pthread_join(thread, NULL);
	CHECK(bound, "queue 7 was never bound");
	puts("never bound");
}

static void denied(const char *node)
{
	static int (*const ways[])(struct device *, const struct nlmsghdr *) = { by_kick, by_write, by_send };
	char req[256];
	struct device d;
	unsigned i;
	int n;
	device_open(&d, node, NETLINK_ROUTE);
	device_rings(&d, 65536, 1, 8192);
	CHECK(join(d.fd, RTNLGRP_LINK) == EPERM, "a group that is not granted was joined");
	for (i = 0; i < 30; i++) {
		CHECK(ways[i % 3](&d, request(req, RTM_GETLINK, 0, ++seq, sizeof(struct ifinfomsg))) == EPERM, "way %u", i);
		/* What is granted goes on beside it. */
		CALL(write(d.fd, request(req, RTM_GETADDR, NLM_F_DUMP, ++seq, sizeof(struct ifaddrmsg)), NLMSG_LENGTH(8)));
		do {
			device_next(&d, buf, sizeof buf, wait_poll);
			CHECK(((struct nlmsghdr *)buf)->nlmsg_seq == seq, "an answer to another request");
		} while (((struct nlmsghdr *)buf)->nlmsg_type != NLMSG_DONE);
	}
	close(d.fd);
	device_open(&d, node, NETLINK_ROUTE);
	for (i = 0; i < 3; i++) {
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		CHECK(poll(&p, 1, 0) == 0, "readable before");
		request(req, RTM_GETLINK, 0, ++seq, sizeof(struct ifinfomsg));
		CALL(write(d.fd, req, NLMSG_LENGTH(16)));
		CHECK(poll(&p, 1, 20000) == 1 && p.revents & POLLIN, "not readable");
		CALL(n = read(d.fd, buf, sizeof buf));
		CHECK(ack_of(buf, n, seq) == EPERM, "read gave %d bytes", n);
	}
	CALL(fcntl(d.fd, F_SETFL, O_NONBLOCK));
	CHECK(read(d.fd, buf, sizeof buf) < 0 && errno == EAGAIN, "more than one answer");
	close(d.fd);
	puts("each refused");
}

/* Both directions: ours used by the other, and his used by us. */
static void pass(const char *node, uid_t other)
{
	struct device ours, his;
	char req[256];
	int status;
	pid_t pid;
	device_open(&ours, node, NETLINK_NETFILTER);
	device_rings(&ours, 65536, 1, 8192);
	CALL(pid = fork());
	if (pid == 0) {
		CALL(setresgid(other, other, other));
		CALL(setresuid(other, other, other));
		CHECK(by_kick(&ours, config(req, 7, NFQNL_CFG_CMD_BIND)) == EPERM, "a grant was handed on with an open file");
		CHECK(join(ours.fd, NFNLGRP_CONNTRACK_NEW) == EPERM, "a group was");
		exit(0);
	}
	CALL(waitpid(pid, &status, 0));
	CHECK(status == 0, "the other user: status %#x", status);
	/* Opened by the other, used by us: this process is root until now, and becomes who has the grants. */
	CALL(setresgid(-1, other, -1));
	CALL(setresuid(-1, other, -1));
	device_open(&his, node, NETLINK_NETFILTER);
	device_rings(&his, 65536, 1, 8192);
	CALL(setresuid(-1, 0, -1));
	CALL(setresgid(1001, 1001, 1001));
	CALL(setresuid(1001, 1001, 1001));
	CHECK(by_kick(&his, config(req, 7, NFQNL_CFG_CMD_BIND)) == EPERM, "a grant was lent to whoever opened the file");
	puts("kept");
}

int main(int argc, char **argv)
{
	CHECK(argc >= 3, "usage: %s NODE granted|race|denied|pass UID", argv[0]);
	if (!strcmp(argv[2], "granted"))
		granted(argv[1]);
	else if (!strcmp(argv[2], "rate"))
		rate(argv[1], atoi(argv[3]));
	else if (!strcmp(argv[2], "flood"))
		flood(argv[1], atoi(argv[3]), atoi(argv[4]));
	else if (!strcmp(argv[2], "race"))
		race(argv[1]);
	else if (!strcmp(argv[2], "denied"))
		denied(argv[1]);
	else
		pass(argv[1], atoi(argv[3]));
	return 0;
}
