/* ring_c: the library's rings, call by call, on USERSOCK and ROUTE in this namespace. */
#include <errno.h>
#include <fcntl.h>
#include <nlmmap.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(cond) do { \
	if (!(cond)) { \
		fprintf(stderr, "%s:%d: %s (%s; %s)\n", __FILE__, __LINE__, #cond, strerror(errno), nlmmap_ring_error()); \
		return 1; \
	} \
} while (0)
#define REFUSED(options, number, words) do { \
	errno = 0; \
	CHECK(nlmmap_ring_new(&options) == NULL && errno == number && strstr(nlmmap_ring_error(), words)); \
} while (0)

static int refusals(void)
{
	struct nlmmap_options good = { .size = sizeof good, .family = NETLINK_ROUTE }, o;
	__u32 group = 100000;
	CHECK(nlmmap_ring_new(NULL) == NULL && errno == EINVAL);
	o = good, o.size = 8;
	REFUSED(o, EINVAL, "size");
	o = good, o.family = 31;
	REFUSED(o, EPROTONOSUPPORT, "31");
	o = good, o.rx = (struct nl_mmap_req){ 4096, 1, 8192, 1 };
	REFUSED(o, EINVAL, "no frame fits");
	o = good, o.tx = (struct nl_mmap_req){ 0, 0, 5, 1 };
	REFUSED(o, EINVAL, "multiple of 4");
	o = good, o.groups = &group, o.group_nr = 1;
	REFUSED(o, EINVAL, "group");
	o = good, o.flags = NLMMAP_USE_SOCKET, o.socket = -1;
	REFUSED(o, EBADF, "descriptor");
	o.socket = 1000;
	REFUSED(o, EBADF, "descriptor");
	o.socket = open("/dev/null", O_RDONLY);
	REFUSED(o, ENOTSOCK, "netlink");
	o.socket = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
	REFUSED(o, EPROTOTYPE, "family 2");
	o = good, o.flags = NLMMAP_USE_NAMESPACE, o.net = open("/dev/null", O_RDONLY);
	REFUSED(o, EINVAL, "namespace");
	o = good, o.node = "/dev/null";
	REFUSED(o, ENOTTY, "/dev/null");
	o = good, o.node = "/nowhere";
	REFUSED(o, ENOENT, "node");
	CHECK(nlmmap_ring_free(NULL) == 0);
	CHECK(nlmmap_ring_recv(NULL, NULL, 0) == -1 && errno == EINVAL);
	CHECK(nlmmap_ring_kick(NULL) == -1 && errno == EINVAL);
	CHECK(nlmmap_ring_fd(NULL) == -1 && errno == EINVAL);
	nlmmap_ring_release(NULL);
	nlmmap_ring_release(&(struct nlmmap_lent){ 0 });
	return 0;
}

static int lending(void)
{
	struct nlmmap_options o = { .size = sizeof o, .family = NETLINK_USERSOCK, .rx = { 0, 0, 1024, 4 } };
	struct nlmmap_ring *a = nlmmap_ring_new(&o), *b = nlmmap_ring_new(&o);
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	struct nlmmap_lent lent[5] = { 0 };
	static char large[20000];
	struct pollfd p;
	__u32 from;
	CHECK(a && b);
	CHECK(nlmmap_ring_portid(b, &to.nl_pid) == 0 && to.nl_pid && nlmmap_ring_portid(a, &from) == 0);
	p = (struct pollfd){ nlmmap_ring_fd(b), POLLIN, 0 };
	CHECK(poll(&p, 1, 0) == 0 && nlmmap_ring_recv(b, lent, 0) == 0 && nlmmap_ring_recv(b, lent, 20) == 0);
	for (int i = 0; i < 5; i++)
		CHECK(nlmmap_ring_send_to(a, &i, sizeof i, &to) == 0);
	CHECK(poll(&p, 1, 0) == 1);
	for (int i = 0; i < 4; i++) {
		CHECK(nlmmap_ring_recv(b, lent + i, -1) == 1);
		CHECK(lent[i].len == sizeof i && *(const int *)lent[i].data == i);
		CHECK(lent[i].portid == from && lent[i].pid == (__u32)getpid() && lent[i].group == 0);
		CHECK(lent[i].flags == (NLMMAP_HAS_PORTID | NLMMAP_HAS_CREDENTIALS));
	}
	CHECK(nlmmap_ring_recv(b, lent + 4, 0) == -1 && errno == EBUSY);
	CHECK(nlmmap_ring_free(b) == -1 && errno == EBUSY);
	nlmmap_ring_release(lent + 2);
	nlmmap_ring_release(lent + 2);
	CHECK(nlmmap_ring_recv(b, lent + 4, 0) == 1 && *(const int *)lent[4].data == 4);
	CHECK(*(const int *)lent[0].data == 0 && *(const int *)lent[3].data == 3);
	for (int i = 0; i < 5; i++)
		nlmmap_ring_release(lent + i);
	CHECK(nlmmap_ring_send_to(a, large, sizeof large, &to) == 0);
	CHECK(nlmmap_ring_recv(b, lent, -1) == 1 && lent[0].len == sizeof large);
	nlmmap_ring_release(lent);
	CHECK(nlmmap_ring_join(b, 7) == 0 && nlmmap_ring_leave(b, 7) == 0);
	CHECK(nlmmap_ring_join(b, 0) == -1 && errno == EINVAL);
	CHECK(nlmmap_ring_free(a) == 0 && nlmmap_ring_free(b) == 0);
	return 0;
}

static int requests(void)
{
	struct nlmmap_options o = { .size = sizeof o, .family = NETLINK_ROUTE };
	struct { struct nlmsghdr n; char body[16]; } r = { { sizeof r, 18, NLM_F_REQUEST, 0, 0 }, { 0 } };
	struct nlmmap_ring *ring = nlmmap_ring_new(&o);
	struct nlmmap_lent lent;
	CHECK(ring);
	r.n.nlmsg_flags |= NLM_F_ACK; /* RTM_GETLINK of no link: refused, and answered */
	for (r.n.nlmsg_seq = 0; r.n.nlmsg_seq < 100; r.n.nlmsg_seq++)
		CHECK(nlmmap_ring_send(ring, &r, sizeof r) == 0);
	CHECK(nlmmap_ring_kick(ring) > 0 && nlmmap_ring_kick(ring) == 0);
	for (__u32 i = 0; i < 100; i++) {
		CHECK(nlmmap_ring_recv(ring, &lent, 0) == 1 && lent.flags & NLMMAP_FROM_KERNEL);
		CHECK(((const struct nlmsghdr *)lent.data)->nlmsg_seq == i);
		nlmmap_ring_release(&lent);
	}
	return nlmmap_ring_free(ring);
}

int main(void)
{
	return refusals() || lending() || requests();
}
