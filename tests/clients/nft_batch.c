/* nfnetlink batches through the TX ring (complaint 6): BATCH_BEGIN .. BATCH_END in one frame is one
 * transaction, acked as over a socket, and a bad one leaves nothing behind; also among other frames. */
#include "nf.h"
#include <linux/netfilter/nf_tables.h>

static char buf[8192];
static struct sock s;

static size_t begin(char *at)
{
	return nf_msg(at, 0, NFNL_MSG_BATCH_BEGIN, 0, 1, 0, NFNL_SUBSYS_NFTABLES)->nlmsg_len;
}

static size_t end(char *at)
{
	return nf_msg(at, 0, NFNL_MSG_BATCH_END, 0, 2, 0, NFNL_SUBSYS_NFTABLES)->nlmsg_len;
}

static size_t table(char *at, const char *name, uint32_t seq)
{
	struct nlmsghdr *n = nf_msg(at, NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, seq, AF_INET, 0);
	attr(n, NFTA_TABLE_NAME, name, strlen(name) + 1);
	return n->nlmsg_len;
}

static size_t chain(char *at, const char *in, const char *name, uint32_t seq)
{
	struct nlmsghdr *n = nf_msg(at, NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_ACK, seq, AF_INET, 0);
	attr(n, NFTA_CHAIN_TABLE, in, strlen(in) + 1);
	attr(n, NFTA_CHAIN_NAME, name, strlen(name) + 1);
	return n->nlmsg_len;
}

static void take(uint32_t seq, int error)
{
	ssize_t n = rx_take(&s, buf, sizeof buf, NULL, 2000);
	check_error(buf, n, seq, error);
}

static int exists(const char *name)
{
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, 0, 50, AF_INET, 0);
	attr(n, NFTA_TABLE_NAME, name, strlen(name) + 1);
	tx_put(&s, n, n->nlmsg_len);
	CHECK(tx_kick(&s) > 0, "kick: %s", strerror(errno));
	rx_take(&s, buf, sizeof buf, NULL, 2000);
	return n->nlmsg_type != NLMSG_ERROR;
}

int main(void)
{
	char m[4096], name[16];
	size_t n = 0;
	int i;
	s = ring_open(NETLINK_NETFILTER, GEOM(16384, 2, 4096), GEOM(16384, 1, 4096));

	n = begin(m);
	n += table(m + n, "good", 10);
	n += chain(m + n, "good", "c", 11);
	n += end(m + n);
	tx_put(&s, m, n);
	CHECK(tx_kick(&s) == (ssize_t)n, "kick of a batch: %s", strerror(errno));
	rx_take(&s, buf, sizeof buf, NULL, 2000);
	if (((struct nlmsgerr *)NLMSG_DATA(buf))->error == -EINVAL || ((struct nlmsgerr *)NLMSG_DATA(buf))->error == -EOPNOTSUPP)
		LACKING("nf_tables");
	check_error(buf, 36, 10, 0);
	take(11, 0);
	CHECK(exists("good"), "a batch left nothing behind");

	n = begin(m);
	n += table(m + n, "bad", 20);
	n += chain(m + n, "nowhere", "c", 21);
	n += end(m + n);
	tx_put(&s, m, n);
	CHECK(tx_kick(&s) == (ssize_t)n, "kick of a bad batch: %s", strerror(errno));
	take(20, 0);
	take(21, -ENOENT);
	CHECK(!exists("bad"), "a bad batch was not undone");

	/* four frames of one kick: request, batch, batch, request */
	for (i = 0; i < 100; i++) {
		ssize_t sum = 0;
		n = nf_msg(m, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NLM_F_ACK, 30, AF_INET, 0)->nlmsg_len;
		sum += n;
		tx_put(&s, m, n);
		n = begin(m);
		snprintf(name, sizeof name, "t%d", i);
		n += table(m + n, name, 31);
		n += end(m + n);
		sum += n;
		tx_put(&s, m, n);
		n = begin(m);
		n += chain(m + n, name, "c", 32);
		n += chain(m + n, "nowhere", "c", 33);
		n += end(m + n);
		sum += n;
		tx_put(&s, m, n);
		n = nf_msg(m, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NLM_F_ACK, 34, AF_INET, 0)->nlmsg_len;
		sum += n;
		tx_put(&s, m, n);
		CHECK(tx_kick(&s) == sum, "kick of four frames: %s", strerror(errno));
		rx_take(&s, buf, sizeof buf, NULL, 2000);
		CHECK(((struct nlmsghdr *)buf)->nlmsg_seq == 30, "the generation did not come first");
		take(30, 0);
		take(31, 0);
		take(32, 0);
		take(33, -ENOENT);
		rx_take(&s, buf, sizeof buf, NULL, 2000);
		CHECK(((struct nlmsghdr *)buf)->nlmsg_seq == 34, "the second generation did not come");
		take(34, 0);
		CHECK(exists(name), "table %s of the good batch is missing", name);
	}
	ok();
	return 0;
}
