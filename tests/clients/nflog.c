/* Packets of NFLOG group 7 through the RX ring: numbered, whole, in order, those that no frame
 * holds by COPY. */
#include "nf.h"
#include <linux/netfilter/nfnetlink_log.h>

enum { GROUP = 7, PORT = 9999, TOTAL = 2000 };

int main(void)
{
	struct sock s = ring_open(NETLINK_NETFILTER, GEOM(16384, 16, 2048), GEOM(4096, 1, 2048));
	struct nfulnl_msg_config_cmd bind_cmd = { NFULNL_CFG_CMD_BIND };
	struct nfulnl_msg_config_mode mode = { .copy_range = htonl(0xffff), .copy_mode = NFULNL_COPY_PACKET };
	uint16_t with_seq = htons(NFULNL_CFG_F_SEQ);
	static char buf[131072], data[9000];
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, 0, 1, AF_INET, GROUP);
	int udp = udp_open(PORT), out = udp_open(0), i, big = 4 << 20;
	unsigned copied = 0, valid = 0;

	CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	attr(n, NFULA_CFG_CMD, &bind_cmd, sizeof bind_cmd);
	nf_request(&s, n);
	n = nf_msg(buf, NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, 0, 2, AF_INET, GROUP);
	attr(n, NFULA_CFG_MODE, &mode, sizeof mode);
	attr_be32(n, NFULA_CFG_QTHRESH, 1);
	attr_be32(n, NFULA_CFG_NLBUFSIZ, 32768);
	attr(n, NFULA_CFG_FLAGS, &with_seq, 2);
	nf_request(&s, n);
	for (i = 0; i < TOTAL; i++) {
		size_t len = 40 + i * 37 % 8000;
		const struct nlattr *pl, *sq;
		struct nl_mmap_hdr meta;
		memset(data, i, len);
		memcpy(data, &i, 4);
		udp_send(out, PORT, data, len);
		rx_take(&s, buf, sizeof buf, &meta, 2000);
		n = (struct nlmsghdr *)buf;
		CHECK(n->nlmsg_type == (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET), "message type %x", n->nlmsg_type);
		pl = nf_attr(n, NFULA_PAYLOAD);
		sq = nf_attr(n, NFULA_SEQ);
		CHECK(pl && sq, "a packet without payload or number");
		CHECK(get_be32(sq) == (unsigned)i, "packet number %u in place of %d", get_be32(sq), i);
		CHECK(pl->nla_len == NLA_HDRLEN + 28 + len, "packet %d of %zu bytes has %u here", i, len + 28,
		      pl->nla_len - NLA_HDRLEN);
		CHECK(!memcmp((const char *)attr_data(pl) + 28, data, len), "packet %d differs", i);
		copied += meta.nm_status == NL_MMAP_STATUS_COPY;
		valid += meta.nm_status == NL_MMAP_STATUS_VALID;
		CHECK(recv(udp, buf, sizeof buf, MSG_DONTWAIT) == (ssize_t)len, "a logged packet was lost");
	}
	CHECK(copied > 0 && (strict() || valid > 0), "%u copied, %u valid", copied, valid);
	ok();
	return 0;
}
