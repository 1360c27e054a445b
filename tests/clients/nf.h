/* nf.h: nfnetlink messages and UDP traffic for the netfilter clients. */
#ifndef NF_H
#define NF_H
#include "msg.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>

static inline struct nlmsghdr *nf_msg(void *buf, int subsys, int type, int flags, uint32_t seq, int family, int res)
{
	struct nlmsghdr *n = msg(buf, subsys << 8 | type, flags, seq, sizeof(struct nfgenmsg));
	*(struct nfgenmsg *)NLMSG_DATA(n) = (struct nfgenmsg){ family, NFNETLINK_V0, htons(res) };
	return n;
}

static inline const struct nlattr *nf_attr(const struct nlmsghdr *n, int type)
{
	return find_attr(n, sizeof(struct nfgenmsg), type);
}

static inline void attr_be32(struct nlmsghdr *n, int type, uint32_t v)
{
	attr_u32(n, type, htonl(v));
}

static inline uint32_t get_be32(const struct nlattr *a)
{
	uint32_t v;
	memcpy(&v, attr_data(a), 4);
	return ntohl(v);
}

/* A request through the TX ring, answered by an ack of 0 in the RX ring; what else arrives is dropped. */
static inline void nf_request(struct sock *s, struct nlmsghdr *n)
{
	static char buf[131072];
	uint32_t seq = n->nlmsg_seq;
	n->nlmsg_flags |= NLM_F_ACK;
	tx_put(s, n, n->nlmsg_len);
	CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
	for (;;) {
		ssize_t len = rx_take(s, buf, sizeof buf, NULL, 2000);
		if (((struct nlmsghdr *)buf)->nlmsg_type != NLMSG_ERROR)
			continue;
		check_error(buf, len, seq, 0);
		return;
	}
}

static inline struct sockaddr_in udp_address(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port),
				     .sin_addr = { htonl(INADDR_LOOPBACK) } };
}

static inline int udp_open(int port)
{
	struct sockaddr_in a = udp_address(port);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), big = 8 << 20;
	CHECK(fd >= 0, "socket(AF_INET): %s", strerror(errno));
	if (port)
		CHECK_CALL(bind(fd, (struct sockaddr *)&a, sizeof a));
	/* Without the right to more: as much as anybody has. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big) < 0)
		CHECK_CALL(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big));
	return fd;
}

static inline void udp_send(int fd, int port, const void *data, size_t len)
{
	struct sockaddr_in a = udp_address(port);
	while (sendto(fd, data, len, 0, (struct sockaddr *)&a, sizeof a) < 0)
		CHECK(errno == ENOBUFS || errno == EINTR || errno == EPERM, "send of a packet: %s", strerror(errno));
}
#endif
