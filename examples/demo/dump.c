/*
 * dump: list the links and routes of this machine through memory-mapped netlink.
 *
 * Written as a client of 2013 was, after Documentation/networking/netlink_mmap.txt of Linux 3.10: the kernel's
 * header, two rings, one mmap, requests in TX frames, answers in RX frames, poll in between. It knows nothing of
 * nlmmap.
 *
 *	cc -O2 -Wall -o dump dump.c
 *
 * Exit status: 0 listed, 3 the kernel has no netlink rings, 1 anything else.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

static int fd;
static char *rx_ring, *tx_ring;
static unsigned int frame_size = 16384, ring_size;
static unsigned int rx_offset, tx_offset;
static unsigned int nframes, ncopies, nmessages, npolls, nkicks;
static unsigned int nlinks, nroutes, nshown;

static void die(const char *what)
{
	fprintf(stderr, "dump: %s: %s\n", what, strerror(errno));
	exit(errno == ENOPROTOOPT ? 3 : 1);
}

static void setup(void)
{
	unsigned int block_size = 16 * getpagesize();
	struct nl_mmap_req req = {
		.nm_block_size	= block_size,
		.nm_block_nr	= 64,
		.nm_frame_size	= frame_size,
		.nm_frame_nr	= 64 * block_size / frame_size,
	};
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK };

	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof(req)) < 0)
		die("setsockopt(NETLINK_RX_RING)");
	if (setsockopt(fd, SOL_NETLINK, NETLINK_TX_RING, &req, sizeof(req)) < 0)
		die("setsockopt(NETLINK_TX_RING)");
	ring_size = req.nm_block_nr * req.nm_block_size;
	rx_ring = mmap(NULL, 2 * ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rx_ring == MAP_FAILED)
		die("mmap");
	tx_ring = rx_ring + ring_size;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("bind");
	printf("rings of %u frames of %u bytes for each direction, in one mapping\n", req.nm_frame_nr, frame_size);
}

/* One request in one TX frame, and the kick that sends it. */
static void request(int type)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	volatile struct nl_mmap_hdr *hdr = (void *)(tx_ring + tx_offset);
	struct nlmsghdr *nlh = (void *)((char *)hdr + NL_MMAP_HDRLEN);
	struct rtmsg *rtm = NLMSG_DATA(nlh); /* an ifinfomsg begins with the family too */

	if (hdr->nm_status != NL_MMAP_STATUS_UNUSED) {
		errno = EBUSY;
		die("no free frame in the TX ring");
	}
	memset(nlh, 0, NLMSG_SPACE(sizeof(struct ifinfomsg)));
	nlh->nlmsg_len = NLMSG_LENGTH(type == RTM_GETLINK ? sizeof(struct ifinfomsg) : sizeof(*rtm));
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = type;
	rtm->rtm_family = AF_UNSPEC;
	hdr->nm_len = nlh->nlmsg_len;
	__sync_synchronize();
	hdr->nm_status = NL_MMAP_STATUS_VALID;
	tx_offset = (tx_offset + frame_size) % ring_size;
	if (sendto(fd, NULL, 0, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		die("sendto");
	nkicks++;
}

static void show_link(struct nlmsghdr *nlh)
{
	struct ifinfomsg *ifi = NLMSG_DATA(nlh);
	struct rtattr *a = IFLA_RTA(ifi);
	int len = IFLA_PAYLOAD(nlh);
	const char *name = "?";
	unsigned int mtu = 0;

	for (; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
		if (a->rta_type == IFLA_IFNAME)
			name = RTA_DATA(a);
		if (a->rta_type == IFLA_MTU)
			mtu = *(unsigned int *)RTA_DATA(a);
	}
	nlinks++;
	printf("link  %d: %s mtu %u %s\n", ifi->ifi_index, name, mtu, ifi->ifi_flags & IFF_UP ? "up" : "down");
}

static void show_route(struct nlmsghdr *nlh)
{
	struct rtmsg *rtm = NLMSG_DATA(nlh);
	struct rtattr *a = RTM_RTA(rtm);
	int len = RTM_PAYLOAD(nlh);
	char dst[64] = "", via[64] = "", dev[IF_NAMESIZE] = "";

	nroutes++;
	for (; RTA_OK(a, len); a = RTA_NEXT(a, len)) {
		if (a->rta_type == RTA_DST)
			inet_ntop(rtm->rtm_family, RTA_DATA(a), dst, sizeof(dst));
		if (a->rta_type == RTA_GATEWAY)
			inet_ntop(rtm->rtm_family, RTA_DATA(a), via, sizeof(via));
		if (a->rta_type == RTA_OIF)
			if_indextoname(*(unsigned int *)RTA_DATA(a), dev);
	}
	/* The local table is long and dull; every route is counted, ten are shown. */
	if (rtm->rtm_table != RT_TABLE_MAIN || nshown++ >= 10)
		return;
	if (*dst)
		printf("route %s/%u", dst, rtm->rtm_dst_len);
	else
		printf("route default");
	printf("%s%s dev %s\n", *via ? " via " : "", via, dev);
}

/* All messages of one frame; 1 at the end of the dump. */
static int process(struct nlmsghdr *nlh, int len)
{
	for (; NLMSG_OK(nlh, len); nlh = NLMSG_NEXT(nlh, len)) {
		nmessages++;
		switch (nlh->nlmsg_type) {
		case NLMSG_DONE:
			return 1;
		case NLMSG_ERROR:
			errno = -((struct nlmsgerr *)NLMSG_DATA(nlh))->error;
			die("the kernel answers");
			break;
		case RTM_NEWLINK:
			show_link(nlh);
			break;
		case RTM_NEWROUTE:
			show_route(nlh);
			break;
		}
	}
	return 0;
}

static void receive(void)
{
	static char buf[65536] __attribute__((aligned(8)));
	struct pollfd pfd = { .fd = fd, .events = POLLIN | POLLERR };
	volatile struct nl_mmap_hdr *hdr;
	int n, done = 0;

	while (!done) {
		n = poll(&pfd, 1, 5000);
		npolls++;
		if (n < 0)
			die("poll");
		if (n == 0 || pfd.revents & POLLERR) {
			errno = n ? ENOBUFS : ETIMEDOUT;
			die("waiting for the dump");
		}
		for (;;) {
			hdr = (void *)(rx_ring + rx_offset);
			if (hdr->nm_status == NL_MMAP_STATUS_VALID) {
				__sync_synchronize();
				nframes++;
				if (hdr->nm_len)
					done |= process((void *)((char *)hdr + NL_MMAP_HDRLEN), hdr->nm_len);
			} else if (hdr->nm_status == NL_MMAP_STATUS_COPY) {
				ncopies++;
				n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
				if (n <= 0)
					die("recv of a copied message");
				done |= process((void *)buf, n);
			} else {
				break;
			}
			__sync_synchronize();
			hdr->nm_status = NL_MMAP_STATUS_UNUSED;
			rx_offset = (rx_offset + frame_size) % ring_size;
		}
	}
}

int main(void)
{
	alarm(60); /* nothing here takes a second */
	setup();
	request(RTM_GETLINK);
	receive();
	request(RTM_GETROUTE);
	receive();
	printf("%u links and %u routes: %u messages in %u frames and %u copies, %u kicks, %u polls\n",
	       nlinks, nroutes, nmessages, nframes, ncopies, nkicks, npolls);
	munmap(rx_ring, 2 * ring_size);
	close(fd);
	return nlinks ? 0 : 1;
}
