/* A kick that the socket layer refuses before it looks at a frame leaves the frame VALID and the head where it is: the client
 * corrects the call and kicks again. Every form of send x every refusal, with a frame, with none, with one that is too long; and
 * which forms are no kicks (abi.md 6; 4.5: netlink_sendmsg looks at flags, ancillary data, address and rights first). */
#include "msg.h"
#include <sys/syscall.h>

static struct sock s;
static char buf[4096];
static uint32_t seq;
/* Not known to the compiler, which would complain. */
static void *volatile wild = (void *)8;

enum form { SEND, SENDTO, SENDMSG, SENDMMSG, FORMS };
static const char *const forms[] = { "send", "sendto", "sendmsg", "sendmmsg" };

/* What a call is given beside the empty buffer. */
struct call {
	const char *what;
	int flags;
	const void *name;
	socklen_t namelen;
	const void *control;
	size_t controllen;
	int error, drop_rights;
	unsigned in; /* forms that can say it, as bits */
};
#define ALL 15u
#define ADDRESSED 14u
#define MESSAGES 12u

static long kick_by(enum form form, const struct call *c, struct iovec *iov, size_t iovlen)
{
	struct msghdr m = { .msg_name = (void *)c->name, .msg_namelen = c->namelen, .msg_iov = iov, .msg_iovlen = iovlen,
			    .msg_control = (void *)c->control, .msg_controllen = c->controllen };
	struct mmsghdr mm = { m, 0 };
	int n;

	switch (form) {
	case SEND:
		return send(s.fd, iov->iov_base, iov->iov_len, c->flags);
	case SENDTO:
		return sendto(s.fd, iov->iov_base, iov->iov_len, c->flags, c->name, c->namelen);
	case SENDMSG:
		return sendmsg(s.fd, &m, c->flags);
	default:
		n = sendmmsg(s.fd, &mm, 1, c->flags);
		return n == 1 ? (long)mm.msg_len : n;
	}
}

/* Rights are looked at in every send; the process has them at the others. */
static void rights(int on)
{
	CHECK_CALL(syscall(SYS_setresuid, -1, on ? 0 : 65534, -1));
}

static void refused(enum form form, const struct call *c, const char *with)
{
	struct iovec none = { NULL, 0 };
	struct nl_mmap_hdr before = *head(&s.tx);
	long n;
	int error;

	if (c->drop_rights)
		rights(0);
	n = kick_by(form, c, &none, 1);
	error = errno;
	if (c->drop_rights)
		rights(1);
	CHECK(n == -1 && error == c->error, "%s, %s, %s: %ld %s, expected %s", forms[form], c->what, with, n,
	      n < 0 ? strerror(error) : "", strerror(c->error));
	CHECK(!memcmp(head(&s.tx), &before, sizeof before), "%s, %s, %s: the frame has changed, status %u", forms[form], c->what, with,
	      head(&s.tx)->nm_status);
}

static void correct(const char *what)
{
	seq++;
	tx_put(&s, msg_ack(buf, seq), 16);
	CHECK(tx_kick(&s) == 16, "%s: the correct kick after it: %s", what, strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq, 0);
}

static void every_refusal(enum form form, const struct call *c)
{
	struct nl_mmap_hdr *h = head(&s.tx);

	refused(form, c, "nothing VALID");
	msg_ack(payload(h), ++seq);
	h->nm_len = s.tx.frame_size;
	set_status(h, NL_MMAP_STATUS_VALID);
	refused(form, c, "a frame that is too long");
	h->nm_len = 16;
	refused(form, c, "a frame");
	CHECK(tx_kick(&s) == 16, "%s, %s: the correct kick after it: %s", forms[form], c->what, strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq, 0);
	advance(&s.tx);
	correct(c->what);
}

/* What is taken all the same. */
static void taken(enum form form, const struct call *c, struct iovec iov)
{
	seq++;
	tx_put(&s, msg_ack(buf, seq), 16);
	CHECK(kick_by(form, c, &iov, 1) == 16, "%s, %s, length %zu: %s", forms[form], c->what, iov.iov_len, strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq, 0);
}

static void no_kick(const char *what, long n)
{
	struct nl_mmap_hdr *h = head(&s.tx);
	CHECK(n == 0, "%s: %ld %s", what, n, n < 0 ? strerror(errno) : "");
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "%s kicks", what);
	CHECK(!ready(&s.rx), "%s is answered", what);
}

static void what_kicks(void)
{
	static const struct call plain = { .what = "plain" };
	struct iovec none[2] = { { NULL, 0 }, { NULL, 0 } }, empty = { buf, 0 }, long_none = { NULL, 7 }, wrong = { NULL, SIZE_MAX };
	struct nl_mmap_hdr *h = head(&s.tx);
	enum form form;

	msg_ack(payload(h), ++seq);
	h->nm_len = 16;
	set_status(h, NL_MMAP_STATUS_VALID);
	no_kick("writev of one vector of no bytes", writev(s.fd, none, 1));
	no_kick("writev without vectors", writev(s.fd, none, 0));
	no_kick("writev of two vectors of no bytes", writev(s.fd, none, 2));
	no_kick("write of a pointer and no bytes", write(s.fd, buf, 0));
	no_kick("sendmsg without vectors", kick_by(SENDMSG, &plain, NULL, 0));
	no_kick("sendmmsg without vectors", kick_by(SENDMMSG, &plain, NULL, 0));
	no_kick("sendmsg of two vectors of no bytes", kick_by(SENDMSG, &plain, none, 2));
	for (form = SEND; form < FORMS; form++)
		no_kick(forms[form], kick_by(form, &plain, &empty, 1));
	CHECK(writev(s.fd, &wrong, 1) == -1 && errno == EINVAL, "writev of too many bytes: %s", strerror(errno));
	CHECK(kick_by(SENDMSG, &plain, &wrong, 1) == -1 && errno == EINVAL, "sendmsg of too many bytes: %s", strerror(errno));
#ifdef __GLIBC__ /* musl reads them itself */
	CHECK(sendmsg(s.fd, wild, 0) == -1 && errno == EFAULT, "sendmsg at a wild address");
	CHECK(sendmmsg(s.fd, wild, 1, 0) == -1 && errno == EFAULT, "sendmmsg at a wild address");
#endif
	CHECK(writev(s.fd, wild, 1) == -1 && errno == EFAULT, "writev at a wild address");
	CHECK(kick_by(SENDMSG, &plain, wild, 1) == -1 && errno == EFAULT, "vectors at a wild address");
	CHECK(status_of(h) == NL_MMAP_STATUS_VALID, "a refused call has taken the frame");
	CHECK(writev(s.fd, &long_none, 1) == 16, "writev of one NULL vector with bytes: %s", strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq, 0);
	advance(&s.tx);

	seq++;
	tx_put(&s, msg_ack(buf, seq), 16);
	CHECK(write(s.fd, NULL, 0) == 16, "write of NULL: %s", strerror(errno));
	check_error(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), seq, 0);
	for (form = SEND; form < FORMS; form++) {
		taken(form, &plain, none[0]);
		taken(form, &plain, long_none);
	}
}

int main(void)
{
	static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK }, other = { .nl_family = AF_INET },
		port = { .nl_family = AF_NETLINK, .nl_pid = 77 }, group = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	static const struct { struct sockaddr_nl a; char more[200]; } large = { { .nl_family = AF_NETLINK }, { 0 } };
	static const struct { struct cmsghdr h; int fd; } rights_of_files = {
		{ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS }, 0 },
		too_short = {
		{ .cmsg_len = 3, .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS }, 0 };
	static const struct { struct cmsghdr h; struct ucred who; } foreign = {
		{ .cmsg_len = CMSG_LEN(sizeof(struct ucred)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS }, { 1, 0, 0 } };
	const struct call calls[] = {
		{ .what = "MSG_OOB", .flags = MSG_OOB, .error = EOPNOTSUPP, .in = ALL },
		{ .what = "MSG_OOB without waiting", .flags = MSG_OOB | MSG_DONTWAIT, .error = EOPNOTSUPP, .in = ALL },
		{ .what = "MSG_OOB before another family", .flags = MSG_OOB, .name = &other, .namelen = 12, .error = EOPNOTSUPP, .in = ADDRESSED },
		{ .what = "another family", .name = &other, .namelen = 12, .error = EINVAL, .in = ADDRESSED },
		{ .what = "1 byte of address", .name = &kernel, .namelen = 1, .error = EINVAL, .in = ADDRESSED },
		{ .what = "2 bytes of address", .name = &kernel, .namelen = 2, .error = EINVAL, .in = ADDRESSED },
		{ .what = "11 bytes of address", .name = &kernel, .namelen = 11, .error = EINVAL, .in = ADDRESSED },
		{ .what = "200 bytes of address", .name = &large, .namelen = 200, .error = EINVAL, .in = 1u << SENDTO },
		{ .what = "a negative length of address", .name = &kernel, .namelen = (socklen_t)-1, .error = EINVAL, .in = ADDRESSED },
		{ .what = "a wild address", .name = (void *)8, .namelen = 12, .error = EFAULT, .in = ADDRESSED },
		{ .what = "a port without the right", .name = &port, .namelen = 12, .error = EPERM, .drop_rights = 1, .in = ADDRESSED },
		{ .what = "a group without the right", .name = &group, .namelen = 12, .error = EPERM, .drop_rights = 1, .in = ADDRESSED },
		{ .what = "descriptors", .control = &rights_of_files, .controllen = sizeof rights_of_files, .error = EINVAL, .in = MESSAGES },
		{ .what = "ancillary data that is cut", .control = &too_short, .controllen = sizeof too_short, .error = EINVAL, .in = MESSAGES },
		{ .what = "another's credentials without the right", .control = &foreign, .controllen = sizeof foreign, .error = EPERM,
		  .drop_rights = 1, .in = MESSAGES },
	};
	const struct call fine[] = {
		{ .what = "no address, with a length", .namelen = 5, .in = ADDRESSED },
		{ .what = "an address of no bytes", .name = &other, .namelen = 0, .in = ADDRESSED },
		{ .what = "the kernel", .name = &kernel, .namelen = 12, .in = ADDRESSED },
		{ .what = "20 bytes of address", .name = &large, .namelen = 20, .in = ADDRESSED },
		{ .what = "200 bytes of address", .name = &large, .namelen = 200, .in = MESSAGES },
		{ .what = "flags that mean nothing here", .flags = MSG_NOSIGNAL | MSG_MORE | MSG_CONFIRM | MSG_DONTROUTE | MSG_EOR, .in = ALL },
		{ .what = "another's credentials", .control = &foreign, .controllen = sizeof foreign, .in = MESSAGES },
	};
	struct iovec none = { NULL, 0 };
	enum form form;
	unsigned i;

	s = ring_open(NETLINK_ROUTE, GEOM(4096, 4, 2048), GEOM(4096, 4, 2048));
	what_kicks();
	for (form = SEND; form < FORMS; form++) {
		for (i = 0; i < sizeof calls / sizeof *calls; i++)
			if (calls[i].in & 1u << form)
				every_refusal(form, &calls[i]);
		for (i = 0; i < sizeof fine / sizeof *fine; i++)
			if (fine[i].in & 1u << form)
				taken(form, &fine[i], none);
	}
	ok();
	return 0;
}
