/* msg.h: the netlink messages the clients send, and a look into those they get. */
#ifndef MSG_H
#define MSG_H
#include "ring.h"
#include <net/if.h>
#include <sys/ioctl.h>

/* Starts a message in buf (zeroed up to its fixed header); extend it with attr. */
static inline struct nlmsghdr *msg(void *buf, int type, int flags, uint32_t seq, size_t fixed)
{
	struct nlmsghdr *n = buf;
	memset(buf, 0, NLMSG_SPACE(fixed));
	n->nlmsg_len = NLMSG_LENGTH(fixed);
	n->nlmsg_type = type;
	n->nlmsg_flags = NLM_F_REQUEST | flags;
	n->nlmsg_seq = seq;
	return n;
}

static inline struct nlattr *attr(struct nlmsghdr *n, int type, const void *data, size_t len)
{
	struct nlattr *a = (struct nlattr *)((char *)n + NLMSG_ALIGN(n->nlmsg_len));
	memset(a, 0, NLA_ALIGN(NLA_HDRLEN + len));
	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	if (len)
		memcpy((char *)a + NLA_HDRLEN, data, len);
	n->nlmsg_len = NLMSG_ALIGN(n->nlmsg_len) + NLA_ALIGN(a->nla_len);
	return a;
}

static inline void attr_u32(struct nlmsghdr *n, int type, uint32_t v)
{
	attr(n, type, &v, sizeof v);
}

static inline struct nlattr *nest(struct nlmsghdr *n, int type)
{
	return attr(n, type | NLA_F_NESTED, NULL, 0);
}

static inline void nest_end(struct nlmsghdr *n, struct nlattr *a)
{
	a->nla_len = (char *)n + n->nlmsg_len - (char *)a;
}

/* An attribute of a message whose family header has `fixed` bytes; NULL when absent. */
static inline const struct nlattr *find_attr(const struct nlmsghdr *n, size_t fixed, int type)
{
	size_t off = NLMSG_SPACE(fixed);
	while (off + NLA_HDRLEN <= n->nlmsg_len) {
		const struct nlattr *a = (const struct nlattr *)((const char *)n + off);
		CHECK(a->nla_len >= NLA_HDRLEN && off + a->nla_len <= n->nlmsg_len,
		      "broken attribute at %zu of a message of %u bytes", off, n->nlmsg_len);
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
		off += NLA_ALIGN(a->nla_len);
	}
	return NULL;
}

static inline const void *attr_data(const struct nlattr *a)
{
	return (const char *)a + NLA_HDRLEN;
}

/* The smallest request every family acknowledges: a no-op with NLM_F_ACK. */
static inline struct nlmsghdr *msg_ack(void *buf, uint32_t seq)
{
	return msg(buf, NLMSG_NOOP, NLM_F_ACK, seq, 0);
}

static inline struct nlmsghdr *msg_dump(void *buf, int type, int family, uint32_t seq)
{
	struct nlmsghdr *n = msg(buf, type, NLM_F_DUMP, seq,
				 type == RTM_GETROUTE ? sizeof(struct rtmsg)
						      : sizeof(struct ifinfomsg));
	*(unsigned char *)NLMSG_DATA(n) = family;
	return n;
}

static inline struct nlmsghdr *msg_getlink(void *buf, int ifindex, int flags, uint32_t seq)
{
	struct nlmsghdr *n = msg(buf, RTM_GETLINK, flags, seq, sizeof(struct ifinfomsg));
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_index = ifindex;
	return n;
}

/* A message between user programs: `len` bytes in all, filled from its sequence number. */
static inline struct nlmsghdr *msg_user(void *buf, size_t len, uint32_t seq)
{
	struct nlmsghdr *n = buf;
	size_t i;
	for (i = sizeof *n; i < len; i++)
		((unsigned char *)buf)[i] = (unsigned char)(seq * 31 + i * 7);
	*n = (struct nlmsghdr){ len, 77, NLM_F_REQUEST, seq, 0 };
	return n;
}

static inline void check_user(const void *buf, ssize_t size, uint32_t seq)
{
	const struct nlmsghdr *n = buf;
	size_t i, len = size;
	CHECK(size >= 0, "message %u is not there", seq);
	CHECK(len >= sizeof *n, "message of %zu bytes", len);
	CHECK(n->nlmsg_seq == seq, "expected message %u, got %u", seq, n->nlmsg_seq);
	CHECK(n->nlmsg_len == len, "message %u: nlmsg_len %u in %zu bytes", seq, n->nlmsg_len, len);
	for (i = sizeof *n; i < len; i++)
		CHECK(((const unsigned char *)buf)[i] == (unsigned char)(seq * 31 + i * 7),
		      "message %u of %zu bytes differs at byte %zu", seq, len, i);
}

/* `buf` must be one NLMSG_ERROR for request `seq` carrying `error`. */
static inline void check_error(const void *buf, ssize_t len, uint32_t seq, int error)
{
	const struct nlmsghdr *n = buf;
	CHECK(len >= (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)), "ack of %zd bytes", len);
	CHECK(n->nlmsg_type == NLMSG_ERROR, "expected an ack, got type %u", n->nlmsg_type);
	CHECK(n->nlmsg_seq == seq, "ack of request %u, expected %u", n->nlmsg_seq, seq);
	CHECK(((const struct nlmsgerr *)NLMSG_DATA(n))->error == error, "ack of request %u says %d, expected %d",
	      seq, ((const struct nlmsgerr *)NLMSG_DATA(n))->error, error);
}

/* Whether a dump ends in this chunk: newer kernels put NLMSG_DONE behind the last messages. */
static inline int has_done(const void *buf, ssize_t len)
{
	const struct nlmsghdr *n = buf;
	for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len))
		if (n->nlmsg_type == NLMSG_DONE)
			return 1;
	return 0;
}

static inline void lo_up(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = { .ifr_name = "lo" };
	CHECK(fd >= 0, "socket(AF_INET): %s", strerror(errno));
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	CHECK_CALL(ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
}

static inline void lo_down(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = { .ifr_name = "lo" };
	CHECK(fd >= 0, "socket(AF_INET): %s", strerror(errno));
	CHECK_CALL(ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
}

/* One ordinary request whose ack must say 0. */
static inline void plain_request(int fd, struct nlmsghdr *n)
{
	char buf[8192];
	ssize_t r;
	n->nlmsg_flags |= NLM_F_ACK;
	CHECK_CALL(plain_send(fd, n, n->nlmsg_len, 0, 0));
	r = recv(fd, buf, sizeof buf, 0);
	CHECK(r >= 0, "recv of an ack: %s", strerror(errno));
	check_error(buf, r, n->nlmsg_seq, 0);
}

/* `count` routes 10.x.y.z/32 through lo, many requests per datagram, unacknowledged but the last. */
static inline void add_routes(unsigned count)
{
	int fd = plain_open(NETLINK_ROUTE);
	static char buf[32768];
	unsigned i = 0;
	uint32_t oif = if_nametoindex("lo");
	while (i < count) {
		size_t used = 0;
		for (; i < count && used + 128 < sizeof buf; i++) {
			struct nlmsghdr *n = msg(buf + used, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, i + 1,
						 sizeof(struct rtmsg));
			struct rtmsg *r = NLMSG_DATA(n);
			unsigned char dst[4] = { 10, i >> 16, i >> 8, i };
			*r = (struct rtmsg){ .rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_table = RT_TABLE_MAIN,
					     .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK,
					     .rtm_type = RTN_UNICAST };
			attr(n, RTA_DST, dst, 4);
			attr_u32(n, RTA_OIF, oif);
			used += NLMSG_ALIGN(n->nlmsg_len);
		}
		CHECK_CALL(plain_send(fd, buf, used, 0, 0));
	}
	plain_request(fd, msg_ack(buf, 0xfeed));
	close(fd);
}
#endif
