/* Packets of NFQUEUE 5 judged through the rings. argv[1]: accept [COUNT] (4 verdicts a kick, each sent
 * before its frame is released), batch (NFQNL_MSG_VERDICT_BATCH judges exactly what it names), flood (as fast as
 * the sender can: the queue's own counters explain every missing id), gso (64 KiB packets by COPY). */
#include "nf.h"
#include <linux/netfilter/nfnetlink_queue.h>
#include <sys/epoll.h>

enum { QUEUE = 5, PORT = 9999 };
static struct sock s;
static char buf[131072];
static uint32_t seq = 1;

static void config(int cmd, int range, int gso)
{
	struct nlmsghdr *n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	struct nfqnl_msg_config_cmd c = { .command = cmd, .pf = htons(AF_INET) };
	struct nfqnl_msg_config_params p = { .copy_range = htonl(range), .copy_mode = NFQNL_COPY_PACKET };
	attr(n, NFQA_CFG_CMD, &c, sizeof c);
	nf_request(&s, n);
	n = nf_msg(buf, NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 0, ++seq, AF_UNSPEC, QUEUE);
	attr(n, NFQA_CFG_PARAMS, &p, sizeof p);
	attr_be32(n, NFQA_CFG_QUEUE_MAXLEN, 100000);
	if (gso) {
		attr_be32(n, NFQA_CFG_FLAGS, NFQA_CFG_F_GSO);
		attr_be32(n, NFQA_CFG_MASK, NFQA_CFG_F_GSO);
	}
	nf_request(&s, n);
}

static void put_verdict(int type, uint32_t id, int verdict)
{
	char m[128];
	struct nlmsghdr *n = nf_msg(m, NFNL_SUBSYS_QUEUE, type, 0, ++seq, AF_UNSPEC, QUEUE);
	struct nfqnl_msg_verdict_hdr v = { htonl(verdict), htonl(id) };
	attr(n, NFQA_VERDICT_HDR, &v, sizeof v);
	tx_put(&s, m, n->nlmsg_len);
}

static void kick(void)
{
	CHECK(tx_kick(&s) > 0, "kick of verdicts: %s", strerror(errno));
}

/* The queue's own account: "5 portid total mode range dropped user_dropped id_sequence 1". */
static void counters(unsigned *waiting, unsigned *dropped, unsigned *user_dropped, unsigned *ids)
{
	FILE *f = fopen("/proc/self/net/netfilter/nfnetlink_queue", "r");
	/* Only root opens it: descriptor 3 of whoever is not. */
	if (!f && errno == EACCES && lseek(3, 0, SEEK_SET) == 0)
		f = fdopen(dup(3), "r");
	unsigned q, port, mode, range, got = 0;
	CHECK(f, "nfnetlink_queue in /proc: %s", strerror(errno));
	while (fscanf(f, "%u %u %u %u %u %u %u %u %*u", &q, &port, waiting, &mode, &range, dropped, user_dropped,
		      ids) == 8)
		got |= q == QUEUE;
	fclose(f);
	CHECK(got, "queue %d is not in /proc", QUEUE);
}

static const struct nlmsghdr *as_packet(const void *m, ssize_t len, uint32_t *id)
{
	const struct nlmsghdr *n = m;
	const struct nlattr *a;
	struct nfqnl_msg_packet_hdr h;
	CHECK(len > 0 && n->nlmsg_len <= (size_t)len, "a packet message of %zd bytes", len);
	CHECK(n->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET), "message type %x", n->nlmsg_type);
	a = nf_attr(n, NFQA_PACKET_HDR);
	CHECK(a, "a packet without header");
	memcpy(&h, attr_data(a), sizeof h);
	*id = ntohl(h.packet_id);
	return n;
}

/* Sends `total` numbered packets, at most `window` unanswered. */
static pid_t generator(int total, int window, int *credit)
{
	int p[2], i;
	pid_t pid;
	CHECK_CALL(pipe(p));
	*credit = p[1];
	CHECK_CALL(pid = fork());
	if (pid == 0) {
		int udp = udp_open(0), open = 0;
		char data[1400], c[4096];
		memset(data, 'x', sizeof data);
		for (i = 0; i < total; i++) {
			while (window && open >= window) {
				ssize_t n = read(p[0], c, sizeof c);
				CHECK(n > 0, "the judge is gone");
				open -= n;
			}
			memcpy(data, &i, 4);
			udp_send(udp, PORT, data, 40 + i * 11 % 1200);
			open++;
		}
		_exit(0);
	}
	return pid;
}

static void accept_all(int total)
{
	int credit, udp = udp_open(PORT), arrived = 0, number, i, judged = 0;
	uint32_t id, last = 0, ids[4];
	struct nl_mmap_hdr *held[4];
	unsigned waiting, dropped, user, idseq;
	pid_t pid = generator(total, 64, &credit);
	while (judged < total) {
		int n = 0;
		long end = now_ms() + 5000;
		while (n == 0) {
			struct pollfd p = { s.fd, POLLIN, 0 };
			for (; n < 4 && ready(&s.rx); n++, advance(&s.rx)) {
				struct nl_mmap_hdr *h = head(&s.rx);
				const void *m = payload(h);
				ssize_t len = h->nm_len;
				if (status_of(h) == NL_MMAP_STATUS_COPY) {
					len = recv(s.fd, buf, sizeof buf, MSG_DONTWAIT);
					CHECK(len == h->nm_len, "recv gave %zd of %u", len, h->nm_len);
					m = buf;
				}
				as_packet(m, len, &id);
				CHECK(id == last + 1, "packet %u after %u in ring order", id, last);
				last = ids[n] = id;
				held[n] = h;
			}
			if (n == 0) {
				CHECK(now_ms() < end, "packet %u of %d did not come", last + 1, total);
				CHECK_CALL(poll(&p, 1, 1000));
				CHECK(!(p.revents & POLLERR), "overrun with 64 packets under way");
			}
		}
		for (i = 0; i < n; i++)
			put_verdict(NFQNL_MSG_VERDICT, ids[i], NF_ACCEPT);
		kick();
		for (i = 0; i < n; i++)
			set_status(held[i], NL_MMAP_STATUS_UNUSED);
		judged += n;
		while (recv(udp, buf, sizeof buf, MSG_DONTWAIT) >= 4) {
			memcpy(&number, buf, 4);
			CHECK(number == arrived, "packet %d passed as number %d", number, arrived);
			arrived++;
			CHECK(write(credit, "x", 1) == 1 || judged == total, "credit: %s", strerror(errno));
		}
	}
	join_child(pid);
	while (recv(udp, buf, sizeof buf, MSG_DONTWAIT) >= 4)
		arrived++;
	CHECK(arrived == total, "%d of %d packets passed", arrived, total);
	counters(&waiting, &dropped, &user, &idseq);
	CHECK(!waiting && !dropped && !user, "queue: %u waiting, %u and %u dropped", waiting, dropped, user);
}

/* Groups of 10: one batch verdict accepts the first few, a second drops the rest. */
static void batch(int groups)
{
	int udp = udp_open(PORT), out = udp_open(0), g, i, number;
	for (g = 0; g < groups; g++) {
		int keep = g % 11;
		uint32_t id = 0, first = 0;
		for (i = 0; i < 10; i++) {
			number = g * 10 + i;
			udp_send(out, PORT, &number, sizeof number);
		}
		for (i = 0; i < 10; i++) {
			ssize_t len = rx_take(&s, buf, sizeof buf, NULL, 2000);
			as_packet(buf, len, &id);
			first = i ? first : id;
			CHECK(id == first + i, "packet %u in place of %u", id, first + i);
		}
		if (keep)
			put_verdict(NFQNL_MSG_VERDICT_BATCH, first + keep - 1, NF_ACCEPT);
		if (keep < 10)
			put_verdict(NFQNL_MSG_VERDICT_BATCH, first + 9, NF_DROP);
		kick();
		for (i = 0; i < keep; i++) {
			CHECK(recv(udp, &number, sizeof number, MSG_DONTWAIT) == 4, "group %d: packet %d of %d did not pass",
			      g, i, keep);
			CHECK(number == g * 10 + i, "group %d: packet %d passed in place of %d", g, number, g * 10 + i);
		}
		CHECK(recv(udp, &number, sizeof number, MSG_DONTWAIT) < 0, "group %d: a dropped packet passed", g);
	}
	CHECK(!ready(&s.rx), "an answer nobody asked for");
}

/* Whether a child has ended, which join_child can still ask. */
static int has_ended(pid_t pid)
{
	siginfo_t info = { 0 };
	CHECK_CALL(waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT));
	return info.si_pid == pid;
}

/* No window at all. What is missing in the ring is what the kernel itself counts as dropped. */
static void flood(int total)
{
	int credit, n = 0, quiet = 0, ended = 0;
	uint32_t id, last = 0, seen = 0;
	unsigned waiting, dropped, user, ids;
	pid_t pid = generator(total, 0, &credit);
	/* A sender that has to wait for the processor is not at its end. */
	while (quiet < 5 || !ended) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		long begin = now_ms();
		ssize_t len = rx_next(&s, buf, sizeof buf, NULL);
		if (len > 0) {
			as_packet(buf, len, &id);
			CHECK(id > last, "packet %u after %u", id, last);
			last = id;
			seen++;
			quiet = 0;
			put_verdict(NFQNL_MSG_VERDICT, id, NF_ACCEPT);
			if (++n % 4 == 0)
				kick();
			continue;
		}
		if (n % 4) {
			kick();
			n = 0;
		}
		CHECK_CALL(poll(&p, 1, 200));
		if (p.revents & POLLERR) {
			int e;
			socklen_t l = sizeof e;
			CHECK_CALL(getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &e, &l));
			CHECK(e == ENOBUFS, "error %d", e);
		}
		if (p.revents)
			continue;
		CHECK(now_ms() - begin >= 199, "poll found nothing after %ld ms", now_ms() - begin);
		if (!ended && has_ended(pid)) {
			ended = 1;
			quiet = 0; /* what it sent last may be behind what was seen */
		}
		CHECK(++quiet < 100, "no packet for 20 seconds, and the sender has not ended");
	}
	join_child(pid);
	counters(&waiting, &dropped, &user, &ids);
	CHECK(ids == seen + user, "%u packets were numbered, the kernel dropped %u, the ring gave %u", ids, user, seen);
	CHECK(seen > (unsigned)total / 20, "only %u of %d packets arrived", seen, total);
	CHECK(waiting == 0, "%u packets were never judged", waiting);
}

/* A TCP stream over lo in packets of up to 64 KiB. Each must be whole: as long as its IP header says. */
static void gso(size_t total)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), pipefd[2], done = 0;
	struct sockaddr_in a = udp_address(PORT);
	unsigned large = 0, copied = 0;
	uint32_t id, last = 0;
	pid_t reader, writer;
	CHECK_CALL(bind(listener, (struct sockaddr *)&a, sizeof a));
	CHECK_CALL(listen(listener, 1));
	CHECK_CALL(pipe(pipefd));
	CHECK_CALL(reader = fork());
	if (reader == 0) {
		int fd = accept(listener, NULL, NULL);
		size_t got = 0, i;
		ssize_t n;
		CHECK_CALL(fd);
		while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
			for (i = 0; i < (size_t)n; i++, got++)
				CHECK(buf[i] == (char)(got * 7 + (got >> 12)), "the stream differs at byte %zu", got);
		CHECK(got == total, "%zu of %zu bytes arrived", got, total);
		CHECK(write(pipefd[1], "d", 1) == 1, "write");
		_exit(0);
	}
	CHECK_CALL(writer = fork());
	if (writer == 0) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		size_t sent = 0, i;
		CHECK_CALL(connect(fd, (struct sockaddr *)&a, sizeof a));
		while (sent < total) {
			size_t n = total - sent < 65536 ? total - sent : 65536;
			for (i = 0; i < n; i++)
				buf[i] = (char)((sent + i) * 7 + ((sent + i) >> 12));
			CHECK(send(fd, buf, n, 0) == (ssize_t)n, "send: %s", strerror(errno));
			sent += n;
		}
		_exit(0);
	}
	CHECK_CALL(fcntl(pipefd[0], F_SETFL, O_NONBLOCK));
	for (long end = now_ms() + 30000; !done;) {
		struct nl_mmap_hdr meta;
		struct pollfd p = { s.fd, POLLIN, 0 };
		ssize_t len = rx_next(&s, buf, sizeof buf, &meta);
		const struct nlattr *pl;
		unsigned ip;
		char c;
		if (len < 0) {
			CHECK_CALL(poll(&p, 1, 100));
			CHECK(!(p.revents & POLLERR), "overrun");
			CHECK(now_ms() < end, "the stream stands still after packet %u", last);
			if (!p.revents)
				done = read(pipefd[0], &c, 1) == 1;
			continue;
		}
		pl = nf_attr(as_packet(buf, len, &id), NFQA_PAYLOAD);
		CHECK(id == last + 1, "packet %u after %u", id, last);
		last = id;
		CHECK(pl && pl->nla_len >= NLA_HDRLEN + 40, "a packet without payload");
		ip = ((unsigned char *)attr_data(pl))[2] << 8 | ((unsigned char *)attr_data(pl))[3];
		if (ip > 0xffff - NLA_HDRLEN)
			ip = 0xffff - NLA_HDRLEN; /* more no attribute holds: the kernel cuts here */
		CHECK(ip == 0 || ip == (unsigned)pl->nla_len - NLA_HDRLEN, "a packet of %u bytes has %u here", ip,
		      (unsigned)pl->nla_len - NLA_HDRLEN);
		large += pl->nla_len > 16384;
		copied += meta.nm_status == NL_MMAP_STATUS_COPY;
		put_verdict(NFQNL_MSG_VERDICT, id, NF_ACCEPT);
		kick();
	}
	join_child(writer);
	join_child(reader);
	CHECK(large > 10, "only %u packets beyond 16 KiB: segmentation offload is off", large);
	CHECK(copied >= large, "%u large packets, %u by COPY", large, copied);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "accept";
	int is_gso = !strcmp(mode, "gso"), big = 4 << 20;
	s = ring_open(NETLINK_NETFILTER, is_gso ? GEOM(16384, 16, 4096) : GEOM(16384, 64, 2048), GEOM(4096, 4, 1024));
	/* Without the right to more: as much as anybody has. */
	if (setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big) < 0)
		CHECK_CALL(setsockopt(s.fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big));
	config(NFQNL_CFG_CMD_BIND, 0xffff, is_gso);
	if (!strcmp(mode, "accept"))
		accept_all(argc > 2 ? atoi(argv[2]) : 20000);
	else if (!strcmp(mode, "batch"))
		batch(300);
	else if (!strcmp(mode, "flood"))
		flood(60000);
	else if (is_gso)
		gso(16 << 20);
	else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
