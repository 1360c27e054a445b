/* device_fair NODE: four threads kick large rings without end; a fifth client of the same user asks small things. Between its
 * question and the answer no more than a little of a kick is sent. */
#include "device.h"
#include <pthread.h>

enum { KICKERS = 4, ASKED = 200, MIB = 16, FRAME = 256 };

static struct device kickers[KICKERS];
static unsigned long long kicks[KICKERS];

static void *kick(void *arg)
{
	struct device *d = arg;
	struct nlmmap_kick none = { .sent = 0 };
	char req[64];
	struct nlmsghdr *n = request(req, RTM_GETLINK, 0, 1, sizeof(struct ifinfomsg));
	unsigned i;
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_index = 1;
	for (;;) {
		for (i = 0; i < d->req.nm_frame_nr; i++) {
			struct nl_mmap_hdr *h = frame_at(d, 0, i);
			memcpy((char *)h + NL_MMAP_HDRLEN, n, n->nlmsg_len);
			h->nm_len = n->nlmsg_len;
			set_status(h, NL_MMAP_STATUS_VALID);
		}
		/* ENOBUFS: nobody reads the answers. */
		CHECK(!ioctl(d->fd, NLMMAP_KICK, &none) || errno == ENOBUFS, "kick: %s", strerror(errno));
		__atomic_fetch_add(&kicks[d - kickers], 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Frames sent so far by all; they leave in order. */
static unsigned long long sent(void)
{
	unsigned long long sum = 0;
	unsigned k;
	for (k = 0; k < KICKERS; k++) {
		struct device *d = &kickers[k];
		unsigned low = 0, high = d->req.nm_frame_nr;
		sum += __atomic_load_n(&kicks[k], __ATOMIC_ACQUIRE) * d->req.nm_frame_nr;
		while (low < high) {
			unsigned middle = (low + high) / 2;
			if (status_of(frame_at(d, 0, middle)) == NL_MMAP_STATUS_VALID)
				high = middle;
			else
				low = middle + 1;
		}
		sum += low;
	}
	return sum;
}

static int by_size(const void *a, const void *b)
{
	unsigned long long x = *(unsigned long long *)a, y = *(unsigned long long *)b;
	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	static unsigned long long between[ASKED];
	struct sockaddr_nl name;
	struct device d;
	unsigned i, most = MIB * (1 << 20) / FRAME / 4;
	CHECK(argc == 2, "usage: %s NODE", argv[0]);
	for (i = 0; i < KICKERS; i++) {
		struct device *k = &kickers[i];
		struct nlmmap_map_info info;
		pthread_t thread;
		device_open(k, argv[1], NETLINK_ROUTE);
		k->req = (struct nl_mmap_req){ 1 << 20, MIB, FRAME, MIB * (1 << 20) / FRAME };
		CALL(ioctl(k->fd, NLMMAP_TX_RING, &k->req));
		CALL(ioctl(k->fd, NLMMAP_MAP_INFO, &info));
		if (info.how == NLMMAP_MAP_MEMORY) {
			int memory = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
			CALL(ftruncate(memory, info.tx_len));
			CALL(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
			CALL(ioctl(k->fd, NLMMAP_MEMORY, &memory));
			k->rings = mmap(NULL, info.tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
		} else {
			k->rings = mmap(NULL, info.tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
		}
		CHECK(k->rings != MAP_FAILED, "mmap: %s", strerror(errno));
		CHECK(!pthread_create(&thread, NULL, kick, k), "pthread_create");
	}
	device_open(&d, argv[1], NETLINK_ROUTE);
	while (!sent())
		usleep(1000);
	for (i = 0; i < ASKED; i++) {
		unsigned long long before;
		struct pollfd p = { .fd = d.fd, .events = POLLIN };
		usleep(1000);
		before = sent();
		if (i % 2)
			CALL(ioctl(d.fd, NLMMAP_GETSOCKNAME, &name));
		else
			CALL(poll(&p, 1, 0));
		/* A kick that ends meanwhile may be seen on one side only. */
		between[i] = sent() - before;
		if ((long long)between[i] < 0)
			between[i] = 0;
	}
	qsort(between, ASKED, sizeof *between, by_size);
	printf("frames sent meanwhile: half %llu, nine in ten %llu, most %llu\n", between[ASKED / 2], between[ASKED * 9 / 10],
	       between[ASKED - 1]);
	CHECK(between[ASKED / 2] < most, "half of the requests saw %llu frames or more sent before theirs; a quarter ring is %u",
	      between[ASKED / 2], most);
	return 0;
}
