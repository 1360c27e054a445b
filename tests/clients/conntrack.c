/* Connection tracking through the rings. argv[1]: create (argv[2] entries, about 15 requests with
 * NLM_F_ACK a TX frame; then a dump through 4 KiB frames shows each once), events (a second ring socket
 * hears each creation). */
#include "nf.h"
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

static char buf[131072];

static void tuple(struct nlmsghdr *n, int which, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport)
{
	struct nlattr *t = nest(n, which), *sub = nest(n, CTA_TUPLE_IP);
	uint8_t proto = IPPROTO_UDP;
	attr_be32(n, CTA_IP_V4_SRC, src);
	attr_be32(n, CTA_IP_V4_DST, dst);
	nest_end(n, sub);
	sub = nest(n, CTA_TUPLE_PROTO);
	sport = htons(sport);
	dport = htons(dport);
	attr(n, CTA_PROTO_NUM, &proto, 1);
	attr(n, CTA_PROTO_SRC_PORT, &sport, 2);
	attr(n, CTA_PROTO_DST_PORT, &dport, 2);
	nest_end(n, sub);
	nest_end(n, t);
}

/* Entry i: its number is its source address. */
static struct nlmsghdr *new_entry(void *at, uint32_t i)
{
	struct nlmsghdr *n = nf_msg(at, NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW,
				    NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, i, AF_INET, 0);
	tuple(n, CTA_TUPLE_ORIG, 0x0a000000 + i, 0x0b000001, 1000, 2000);
	tuple(n, CTA_TUPLE_REPLY, 0x0b000001, 0x0a000000 + i, 2000, 1000);
	attr_be32(n, CTA_STATUS, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
	attr_be32(n, CTA_TIMEOUT, 600);
	return n;
}

static uint32_t source_of(const struct nlmsghdr *n)
{
	const struct nlattr *a = nf_attr(n, CTA_TUPLE_ORIG);
	const char *p, *end;
	CHECK(a, "an entry without its tuple");
	/* CTA_TUPLE_IP { CTA_IP_V4_SRC ... } comes first in the nest */
	p = (const char *)attr_data(a) + NLA_HDRLEN;
	end = (const char *)a + a->nla_len;
	for (; p + 8 <= end; p += NLA_ALIGN(((const struct nlattr *)p)->nla_len))
		if ((((const struct nlattr *)p)->nla_type & NLA_TYPE_MASK) == CTA_IP_V4_SRC)
			return get_be32((const struct nlattr *)p) - 0x0a000000;
	FAIL("an entry without its source address");
}

static void take_acks(struct sock *s, uint32_t *acked, uint32_t upto)
{
	while (*acked < upto) {
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(s, buf, sizeof buf, NULL, 5000);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len))
			check_error(n, n->nlmsg_len, (*acked)++, 0);
	}
}

static void create(struct sock *s, uint32_t total, unsigned frames)
{
	static char frame[4096];
	uint32_t put = 0, acked = 0;
	while (put < total) {
		unsigned f;
		for (f = 0; f < frames && put < total; f++) {
			size_t used = 0;
			while (used + 256 <= s->tx.frame_size - NL_MMAP_HDRLEN && put < total)
				used += NLMSG_ALIGN(new_entry(frame + used, put++)->nlmsg_len);
			tx_put(s, frame, used);
		}
		CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
		take_acks(s, &acked, put);
	}
	CHECK(!ready(&s->rx), "more acks than requests");
}

static void dump(struct sock *s, uint32_t total)
{
	unsigned char *seen = calloc(total, 1);
	uint32_t count = 0, i;
	int done = 0;
	nf_msg(buf, NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET, NLM_F_DUMP, 9, AF_INET, 0);
	tx_put(s, buf, ((struct nlmsghdr *)buf)->nlmsg_len);
	CHECK(seen && tx_kick(s) > 0, "kick: %s", strerror(errno));
	while (!done) {
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(s, buf, sizeof buf, NULL, 5000);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			if (n->nlmsg_type == NLMSG_DONE) {
				done = 1;
				continue;
			}
			i = source_of(n);
			CHECK(i < total, "entry %u of %u", i, total);
			CHECK(!seen[i]++, "entry %u twice", i);
			count++;
		}
	}
	CHECK(count == total, "the dump shows %u of %u entries", count, total);
	free(seen);
}

static void events(struct sock *s)
{
	struct sock ear = ring_open(NETLINK_NETFILTER, GEOM(16384, 32, 2048), NO_RING);
	int group = NFNLGRP_CONNTRACK_NEW, big = 4 << 20;
	enum { TOTAL = 2000, STEP = 100 };
	uint32_t i, heard = 0, acked = 0, put = 0;
	CHECK_CALL(setsockopt(ear.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big));
	CHECK_CALL(setsockopt(ear.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
	while (heard < TOTAL) {
		for (i = 0; i < STEP; i++) {
			struct nlmsghdr *n = new_entry(buf, put++);
			tx_put(s, n, n->nlmsg_len);
			CHECK(tx_kick(s) > 0, "kick: %s", strerror(errno));
			take_acks(s, &acked, put);
		}
		for (i = 0; i < STEP; i++, heard++) {
			struct nl_mmap_hdr meta;
			rx_take(&ear, buf, sizeof buf, &meta, 2000);
			CHECK(meta.nm_group == NFNLGRP_CONNTRACK_NEW, "nm_group %u", meta.nm_group);
			CHECK(source_of((struct nlmsghdr *)buf) == heard, "event of entry %u in place of %u",
			      source_of((struct nlmsghdr *)buf), heard);
		}
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "create";
	uint32_t total = argc > 2 ? strtoul(argv[2], NULL, 10) : 60000;
	struct sock s = ring_open(NETLINK_NETFILTER, GEOM(16384, 32, 4096), GEOM(16384, 1, 4096));
	unsigned max = 0;
	FILE *f = fopen("/proc/sys/net/netfilter/nf_conntrack_max", "r");
	if (!f || fscanf(f, "%u", &max) != 1)
		LACKING("connection tracking");
	fclose(f);
	if (max && max < total)
		LACKING("room for %u tracked connections, nf_conntrack_max is %u", total, max);
	if (!strcmp(mode, "create")) {
		create(&s, total, 4);
		dump(&s, total);
	} else
		events(&s);
	ok();
	return 0;
}
