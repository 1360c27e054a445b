/* stopped.c: what calls cost, in nanoseconds, without and under the supervisor (docs/supervisor.md). Linked statically:
 * gcc -O2 -static benches/clients/stopped.c -o stopped && unshare --net ./stopped
 * unshare --net nlmmap run --via supervisor -- ./stopped */
#include "way.h"
#include <fcntl.h>

enum { PASSES = 1000000, STOPS = 20000 };
static unsigned took[STOPS];

static int by_size(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return x < y ? -1 : x > y;
}

/* A call that is so short that its mean is told. */
#define MEAN(name, call) do { \
	uint64_t begin = now(); \
	for (int i = 0; i < PASSES; i++) \
		CHECK((call) >= 0, "%s: %s", name, strerror(errno)); \
	printf("%-28s mean %lu\n", name, (now() - begin) / PASSES); \
} while (0)

/* A call that may stop. */
#define SPREAD(name, before, call, after) do { \
	for (int i = 0; i < STOPS; i++) { \
		before; \
		uint64_t begin = now(); \
		ssize_t result = (call); \
		took[i] = now() - begin; \
		CHECK(result >= 0, "%s: %s", name, strerror(errno)); \
		after; \
	} \
	qsort(took, STOPS, sizeof *took, by_size); \
	printf("%-28s p50 %u p99 %u\n", name, took[STOPS / 2], took[STOPS / 100 * 99]); \
} while (0)

static void put_ack(struct chan *c)
{
	struct nl_mmap_hdr *t = frame(&c->tx);
	*(struct nlmsghdr *)((char *)t + NL_MMAP_HDRLEN) =
		(struct nlmsghdr){ sizeof(struct nlmsghdr), NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, 1, 0 };
	t->nm_len = sizeof(struct nlmsghdr);
	set_status(t, NL_MMAP_STATUS_VALID);
	advance(&c->tx);
}

static void take_ack(struct chan *c)
{
	struct nl_mmap_hdr *h = frame(&c->rx);
	CHECK(status(h) == NL_MMAP_STATUS_VALID, "no acknowledgement");
	set_status(h, NL_MMAP_STATUS_UNUSED);
	advance(&c->rx);
}

int main(void)
{
	struct chan c = chan_parse("ring");
	struct nl_mmap_req probe = geometry(c.frame_size, c.frame_nr);
	int pipes[2], zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct pollfd of_pipe, of_ring;
	char byte;

	CALL(zero);
	CALL(pipe(pipes));
	of_pipe = (struct pollfd){ pipes[0], POLLIN, 0 };
	MEAN("getppid", syscall(SYS_getppid));
	MEAN("pread", pread(zero, &byte, 1, 0));
	MEAN("write of no bytes", write(pipes[1], &byte, 0));
	SPREAD("poll of a pipe", , poll(&of_pipe, 1, 0), );
	chan_socket(&c, NETLINK_ROUTE);
	if (setsockopt(c.fd, SOL_NETLINK, NETLINK_TX_RING, &probe, sizeof probe) < 0) {
		printf("no rings: %s\n", strerror(errno));
		return 0;
	}
	close(c.fd);
	chan_socket(&c, NETLINK_ROUTE);
	chan_rings(&c, 2048, 128);
	of_ring = (struct pollfd){ c.fd, POLLIN, 0 };
	SPREAD("kick of nothing", , send(c.fd, NULL, 0, 0), );
	SPREAD("kick of one request", put_ack(&c), send(c.fd, NULL, 0, 0), take_ack(&c));
	SPREAD("poll of an empty ring", , poll(&of_ring, 1, 0), );
	return 0;
}
