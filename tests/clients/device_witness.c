/* device_witness NODE SECONDS: an honest client beside hostile ones. Sends requests through its TX ring one after the
 * other, and wants each acknowledged once, in order, through its RX ring. Prints how long they took. */
#include "device.h"

int main(int argc, char **argv)
{
	static double took[1 << 20];
	char buf[8192], req[64];
	struct device d;
	unsigned seq = 0;
	double end, before;
	CHECK(argc == 3, "usage: %s NODE SECONDS", argv[0]);
	device_open(&d, argv[1], NETLINK_ROUTE);
	device_rings(&d, 65536, 1, 8192);
	puts("ready");
	fflush(stdout);
	end = now() + atof(argv[2]);
	while ((before = now()) < end && seq < sizeof took / sizeof *took) {
		struct nlmsghdr *n = request(req, NLMSG_NOOP, NLM_F_ACK, ++seq, 0);
		size_t len;
		CHECK(device_send(&d, n, NULL) == 0, "request %u: %s", seq, strerror(errno));
		len = device_next(&d, buf, sizeof buf, wait_poll);
		CHECK(ack_of(buf, len, seq) == 0, "no acknowledgement of request %u", seq);
		took[seq - 1] = now() - before;
		usleep(500);
	}
	qsort(took, seq, sizeof *took, by_value);
	printf("requests %u p50_us %.0f p99_us %.0f max_us %.0f\n", seq, took[seq / 2] * 1e6, took[seq - seq / 100 - 1] * 1e6,
	       took[seq - 1] * 1e6);
	return 0;
}
