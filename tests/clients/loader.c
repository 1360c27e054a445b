/* A loader's stream: about 15 requests with NLM_F_ACK in each frame, 4 frames a kick, thousands
 * of requests. Every one is answered exactly once, in order (clients.md; complaint 5 of the removal). */
#include "msg.h"

enum { PER_FRAME = 15, FRAMES = 4, KICKS = 250 };

int main(void)
{
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(4096, 32, 2048), GEOM(4096, 4, 4096));
	static char buf[8192];
	uint32_t put = 0, acked = 0;
	int kick, f, i;

	lo_up();
	for (kick = 0; kick < KICKS; kick++) {
		ssize_t bytes = 0;
		for (f = 0; f < FRAMES; f++) {
			size_t used = 0;
			for (i = 0; i < PER_FRAME; i++, put++) {
				/* Every third is one the kernel must refuse: no such interface. */
				struct nlmsghdr *n = put % 3 ? msg_ack(buf + used, put)
							     : msg_getlink(buf + used, 9999, NLM_F_ACK, put);
				used += NLMSG_ALIGN(n->nlmsg_len);
			}
			tx_put(&s, buf, used);
			bytes += used;
		}
		i = tx_kick(&s);
		CHECK(i == bytes, "kick %d returned %d of %zd bytes", kick, i, bytes);
		while (acked < put) {
			struct nlmsghdr *n = (struct nlmsghdr *)buf;
			ssize_t len = rx_take(&s, buf, sizeof buf, NULL, 3000);
			for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len), acked++)
				check_error(n, n->nlmsg_len, acked, acked % 3 ? 0 : -ENODEV);
		}
	}
	CHECK(!ready(&s.rx), "more answers than requests");
	CHECK(recv(s.fd, buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "more answers than requests");
	ok();
	return 0;
}
