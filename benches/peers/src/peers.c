/* The usual loops of the C libraries, as their own examples have them. Each returns 0, or -1 with errno. `judged` counts what
 * was taken, for whoever makes the work. */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { QUEUE = 5, ROOM = 512 << 20 };

typedef void (*ready_fn)(void);

static int large_buffer(int fd)
{
	int room = ROOM;
	return setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
}

/* libnetfilter_queue, its older interface: utils/nfqnl_test.c */
static int accept_packet(struct nfq_q_handle *queue, struct nfgenmsg *msg, struct nfq_data *data, void *judged)
{
	struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);
	(void)msg;
	if (!header || nfq_set_verdict(queue, ntohl(header->packet_id), NF_ACCEPT, 0, NULL) < 0)
		return -1;
	++*(volatile uint64_t *)judged;
	return 0;
}

int peer_libnetfilter_queue(uint64_t count, volatile uint64_t *judged, ready_fn ready)
{
	static char buf[65536] __attribute__((aligned));
	struct nfq_handle *handle = nfq_open();
	struct nfq_q_handle *queue;
	if (!handle || !(queue = nfq_create_queue(handle, QUEUE, accept_packet, (void *)judged)) ||
	    nfq_set_mode(queue, NFQNL_COPY_PACKET, 0xffff) < 0 || nfq_set_queue_maxlen(queue, 100000) < 0 ||
	    large_buffer(nfq_fd(handle)) < 0)
		return -1;
	ready();
	while (*judged < count) {
		ssize_t len = recv(nfq_fd(handle), buf, sizeof buf, 0);
		if (len < 0)
			return -1;
		nfq_handle_packet(handle, buf, len);
	}
	nfq_destroy_queue(queue);
	nfq_close(handle);
	return 0;
}

/* libmnl with libnetfilter_queue's message helpers: examples/nf-queue.c */
static struct mnl_socket *mnl;

static int packet(const struct nlmsghdr *nlh, void *judged)
{
	struct nlattr *attr[NFQA_MAX + 1] = { 0 };
	struct nfqnl_msg_packet_hdr *header;
	char buf[MNL_SOCKET_BUFFER_SIZE];
	struct nlmsghdr *verdict;
	if (nfq_nlmsg_parse(nlh, attr) < 0 || !attr[NFQA_PACKET_HDR])
		return MNL_CB_ERROR;
	header = mnl_attr_get_payload(attr[NFQA_PACKET_HDR]);
	verdict = nfq_nlmsg_put(buf, NFQNL_MSG_VERDICT, QUEUE);
	nfq_nlmsg_verdict_put(verdict, ntohl(header->packet_id), NF_ACCEPT);
	if (mnl_socket_sendto(mnl, verdict, verdict->nlmsg_len) < 0)
		return MNL_CB_ERROR;
	++*(volatile uint64_t *)judged;
	return MNL_CB_OK;
}

int peer_libmnl_queue(uint64_t count, volatile uint64_t *judged, ready_fn ready)
{
	static char buf[0xffff + 4096] __attribute__((aligned));
	struct nlmsghdr *nlh;
	unsigned port;
	if (!(mnl = mnl_socket_open(NETLINK_NETFILTER)) || mnl_socket_bind(mnl, 0, MNL_SOCKET_AUTOPID) < 0)
		return -1;
	port = mnl_socket_get_portid(mnl);
	nlh = nfq_nlmsg_put(buf, NFQNL_MSG_CONFIG, QUEUE);
	nfq_nlmsg_cfg_put_cmd(nlh, AF_INET, NFQNL_CFG_CMD_BIND);
	if (mnl_socket_sendto(mnl, nlh, nlh->nlmsg_len) < 0)
		return -1;
	nlh = nfq_nlmsg_put(buf, NFQNL_MSG_CONFIG, QUEUE);
	nfq_nlmsg_cfg_put_params(nlh, NFQNL_COPY_PACKET, 0xffff);
	nfq_nlmsg_cfg_put_qmaxlen(nlh, 100000);
	if (mnl_socket_sendto(mnl, nlh, nlh->nlmsg_len) < 0 || large_buffer(mnl_socket_get_fd(mnl)) < 0)
		return -1;
	ready();
	while (*judged < count) {
		ssize_t len = mnl_socket_recvfrom(mnl, buf, sizeof buf);
		if (len < 0 || mnl_cb_run(buf, len, 0, port, packet, (void *)judged) < 0)
			return -1;
	}
	mnl_socket_close(mnl);
	return 0;
}

/* libmnl: examples/netfilter/nfct-event.c, which looks at every attribute. */
static int attribute(const struct nlattr *attr, void *data)
{
	const struct nlattr **table = data;
	if (mnl_attr_type_valid(attr, CTA_MAX) >= 0)
		table[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

static int event(const struct nlmsghdr *nlh, void *judged)
{
	struct nlattr *table[CTA_MAX + 1] = { 0 };
	mnl_attr_parse(nlh, sizeof(struct nfgenmsg), attribute, table);
	if (!table[CTA_TUPLE_ORIG])
		return MNL_CB_ERROR;
	++*(volatile uint64_t *)judged;
	return MNL_CB_OK;
}

int peer_libmnl_events(uint64_t count, volatile uint64_t *judged, ready_fn ready)
{
	static char buf[65536] __attribute__((aligned));
	if (!(mnl = mnl_socket_open(NETLINK_NETFILTER)) ||
	    mnl_socket_bind(mnl, NF_NETLINK_CONNTRACK_UPDATE, MNL_SOCKET_AUTOPID) < 0 ||
	    large_buffer(mnl_socket_get_fd(mnl)) < 0)
		return -1;
	ready();
	while (*judged < count) {
		ssize_t len = mnl_socket_recvfrom(mnl, buf, sizeof buf);
		if (len < 0 || mnl_cb_run(buf, len, 0, 0, event, (void *)judged) < 0)
			return -1;
		if (*judged < count && *judged % 1000 == 0)
			ready();
	}
	mnl_socket_close(mnl);
	return 0;
}

/* libnetfilter_conntrack: utils/conntrack_events.c, without its printing. */
static volatile uint64_t *events, most;
static ready_fn again;

static int caught(enum nf_conntrack_msg_type type, struct nf_conntrack *ct, void *data)
{
	(void)type, (void)data;
	if (!nfct_attr_is_set(ct, ATTR_ORIG_IPV4_SRC))
		return NFCT_CB_FAILURE;
	if (++*events >= most)
		return NFCT_CB_STOP;
	if (*events % 1000 == 0)
		again();
	return NFCT_CB_CONTINUE;
}

int peer_libnetfilter_conntrack(uint64_t count, volatile uint64_t *judged, ready_fn ready)
{
	struct nfct_handle *handle = nfct_open(CONNTRACK, NF_NETLINK_CONNTRACK_UPDATE);
	if (!handle || large_buffer(nfct_fd(handle)) < 0)
		return -1;
	events = judged, most = count, again = ready;
	nfct_callback_register(handle, NFCT_T_ALL, caught, NULL);
	ready();
	if (nfct_catch(handle) < 0)
		return -1;
	nfct_close(handle);
	return 0;
}
