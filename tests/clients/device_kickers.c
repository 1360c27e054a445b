/* device_kickers NODE SECONDS KICKERS same|others MIB: KICKERS clients, each in a session of its own and of this user or of one of
 * its own, kick TX rings of MIB MiB without end, beside a client that asks small things with pauses of 2 ms. Prints for each
 * kind of request how long it took, in milliseconds, and which share took more than one; and how many frames each kicker has sent. */
#include "device.h"
#include <signal.h>
#include <sys/prctl.h>

enum { FRAME = 256, MOST_KICKERS = 64, MOST = 1 << 16, KINDS = 5, FIRST_UID = 60000 };

static const char *const names[KINDS] = { "getsockname", "poll", "kick", "write+read", "open" };

/* Shared with the kickers: kicks that are over. */
static unsigned long *kicks;

/* Never returns; says when its ring is there. */
static void kick(const char *node, unsigned mib, int ready, unsigned long *count)
{
	struct nlmmap_kick none = { .sent = 0 };
	struct nlmmap_map_info info;
	struct device d;
	char req[64];
	struct nlmsghdr *n = request(req, RTM_GETLINK, 0, 1, sizeof(struct ifinfomsg));
	int memory;
	unsigned i;
	((struct ifinfomsg *)NLMSG_DATA(n))->ifi_index = 1;
	device_open(&d, node, NETLINK_ROUTE);
	d.req = (struct nl_mmap_req){ 1 << 20, mib, FRAME, mib * ((1 << 20) / FRAME) };
	CALL(ioctl(d.fd, NLMMAP_TX_RING, &d.req));
	CALL(ioctl(d.fd, NLMMAP_MAP_INFO, &info));
	memory = d.fd;
	if (info.how == NLMMAP_MAP_MEMORY) {
		CALL(memory = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING));
		CALL(ftruncate(memory, info.tx_len));
		CALL(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
		CALL(ioctl(d.fd, NLMMAP_MEMORY, &memory));
	}
	d.rings = mmap(NULL, info.tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	CHECK(d.rings != MAP_FAILED, "mmap: %s", strerror(errno));
	CALL(write(ready, "", 1));
	for (;;) {
		for (i = 0; i < d.req.nm_frame_nr; i++) {
			struct nl_mmap_hdr *h = frame_at(&d, 0, i);
			memcpy((char *)h + NL_MMAP_HDRLEN, n, n->nlmsg_len);
			h->nm_len = n->nlmsg_len;
			set_status(h, NL_MMAP_STATUS_VALID);
		}
		/* ENOBUFS: nobody reads the answers. */
		CHECK(!ioctl(d.fd, NLMMAP_KICK, &none) || errno == ENOBUFS, "kick: %s", strerror(errno));
		__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
	}
}

/* One request of a kind. */
static void ask(int kind, const char *node, struct device *d, unsigned seq)
{
	struct sockaddr_nl name;
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	char buf[8192], req[64];
	struct nlmsghdr *n = request(req, NLMSG_NOOP, NLM_F_ACK, seq, 0);
	int fd;
	switch (kind) {
	case 0:
		CALL(ioctl(d->fd, NLMMAP_GETSOCKNAME, &name));
		break;
	case 1:
		CALL(poll(&p, 1, 0));
		break;
	case 2:
		CHECK(device_send(d, n, NULL) == 0, "request %u: %s", seq, strerror(errno));
		CHECK(ack_of(buf, device_next(d, buf, sizeof buf, wait_poll), seq) == 0, "no answer to %u", seq);
		break;
	case 3:
		CALL(write(d[1].fd, n, n->nlmsg_len));
		CHECK(ack_of(buf, read(d[1].fd, buf, sizeof buf), seq) == 0, "no answer to %u", seq);
		break;
	default:
		CALL(fd = open(node, O_RDWR | O_CLOEXEC));
		close(fd);
	}
}

int main(int argc, char **argv)
{
	static double took[KINDS][MOST];
	unsigned count = 0, kickers, i, kind;
	int ready[2];
	char said;
	double end;
	struct device d[2];
	CHECK(argc == 6, "usage: %s NODE SECONDS KICKERS same|others MIB", argv[0]);
	kickers = atoi(argv[3]);
	CHECK(kickers <= MOST_KICKERS, "at most %d kickers", MOST_KICKERS);
	kicks = mmap(NULL, MOST_KICKERS * sizeof *kicks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(kicks != MAP_FAILED, "mmap: %s", strerror(errno));
	CALL(pipe(ready));
	for (i = 0; i < kickers; i++) {
		pid_t pid = fork();
		CALL(pid);
		if (pid == 0) {
			CALL(setsid());
			if (!strcmp(argv[4], "others"))
				CALL(setuid(FIRST_UID + i));
			CALL(prctl(PR_SET_PDEATHSIG, SIGKILL));
			kick(argv[1], atoi(argv[5]), ready[1], &kicks[i]);
		}
	}
	close(ready[1]);
	CALL(setsid() >= 0 || errno == EPERM ? 0 : -1);
	device_open(&d[0], argv[1], NETLINK_ROUTE);
	device_rings(&d[0], 65536, 1, 8192);
	device_open(&d[1], argv[1], NETLINK_ROUTE);
	for (i = 0; i < kickers; i++)
		CHECK(read(ready[0], &said, 1) == 1, "a kicker has ended");
	puts("ready");
	fflush(stdout);
	end = now() + atof(argv[2]);
	while (now() < end && count < MOST) {
		for (kind = 0; kind < KINDS; kind++) {
			double before;
			usleep(2000);
			before = now();
			ask(kind, argv[1], d, count * KINDS + kind + 1);
			took[kind][count] = (now() - before) * 1e3;
		}
		count++;
	}
	CHECK(count, "no time");
	for (kind = 0; kind < KINDS; kind++) {
		double *t = took[kind];
		unsigned late = 0;
		for (i = 0; i < count; i++)
			late += t[i] > 1;
		qsort(t, count, sizeof *t, by_value);
		printf("%-12s %5u times, p50 %.3f p90 %.3f p99 %.3f max %.3f ms, late %.1f %%\n", names[kind], count, t[count / 2],
		       t[count * 9 / 10], t[count * 99 / 100], t[count - 1], 100.0 * late / count);
	}
	printf("kicks");
	for (i = 0; i < kickers; i++)
		printf(" %lu", kicks[i]);
	putchar('\n');
	return 0;
}
