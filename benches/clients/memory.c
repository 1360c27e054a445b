/* memory.c SOCKETS: what ring sockets add to a process beyond their rings, before any message was copied: the growth of its
 * proportional set size by SOCKETS of them, every ring page touched and messages received, less the rings. */
#include "way.h"

static uint64_t seen;

static inline void take(struct chan *c, const char *m, size_t len)
{
	(void)c, (void)m, (void)len;
	seen++;
}

/* Pages shared by two mappings of this process, as the rings are, are counted once by this. */
static uint64_t resident(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	uint64_t kib = 0;
	CHECK(f, "smaps_rollup: %s", strerror(errno));
	while (fgets(line, sizeof line, f))
		sscanf(line, "Pss: %lu", &kib);
	fclose(f);
	CHECK(kib, "no Pss in smaps_rollup");
	return kib << 10;
}

int main(int argc, char **argv)
{
	static struct chan c[64];
	struct nlmsghdr n = { sizeof n, NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, 0, 0 };
	uint64_t before, rings = 0, want = 0;
	int sockets;
	CHECK(argc == 2, "usage: memory SOCKETS");
	sockets = number(argv[1]);
	CHECK(sockets >= 1 && sockets <= 64, "1 to 64 sockets");
	resident();
	before = resident();
	for (int i = 0; i < sockets; i++) {
		c[i] = chan_parse("ring");
		chan_socket(&c[i], NETLINK_ROUTE);
		chan_rings(&c[i], 256, 64);
		size_t len = (size_t)c[i].frame_size * c[i].frame_nr + 256 * 64;
		for (size_t at = 0; at < len; at += 4096)
			__atomic_fetch_or(&c[i].rx.base[at], 0, __ATOMIC_RELAXED);
		rings += len;
		for (want += 200; seen < want;) {
			CALL(send(c[i].fd, &n, sizeof n, 0));
			CHAN_EACH(&c[i], take);
		}
		CHECK(c[i].copies == 0, "a message came by COPY");
	}
	printf("messages=%lu beyond=%ld rings=%lu sockets=%d\n", seen, (long)(resident() - before - rings), rings, sockets);
	return 0;
}
