/* The first 4 MiB of each ring are there when mmap returns: no frame of them costs a page fault. */
#include "ring.h"
#include <sys/resource.h>

enum { PART = 4 << 20, FEW = 64 };

static long faults(void)
{
	struct rusage use;
	CHECK_CALL(getrusage(RUSAGE_THREAD, &use));
	return use.ru_minflt + use.ru_majflt;
}

static long touch(volatile char *at)
{
	long before = faults();
	for (size_t i = 0; i < PART; i += 4096)
		at[i + 64] = at[i + 64];
	return faults() - before;
}

int main(void)
{
	struct nl_mmap_req rx = { 1 << 20, 5, 4096, 5 << 8 }, tx = { 1 << 20, 4, 4096, 4 << 8 };
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sock s = ring_open(NETLINK_ROUTE, rx, tx);
	long of_rx, of_tx;
	if (madvise(page, 4096, 23 /* MADV_POPULATE_WRITE, Linux 5.14 */) < 0) {
		fprintf(stderr, "no MADV_POPULATE_WRITE: %s\n", strerror(errno));
		return 77;
	}
	of_rx = touch(s.map);
	of_tx = touch(s.map + req_bytes(rx));
	CHECK(of_rx < FEW && of_tx < FEW, "%ld page faults in the receive ring, %ld in the other", of_rx, of_tx);
	ok();
	return 0;
}
