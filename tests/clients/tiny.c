/* Geometries at the edge: frames of 24 bytes (no payload at all), rings of one frame, one frame of
 * 64 KiB, a frame size that does not divide its block. Nothing is lost, order is kept. */
#include "msg.h"

static char buf[131072];

static void messages(struct nl_mmap_req g, int total, size_t step)
{
	struct sock s = ring_open(NETLINK_USERSOCK, g, NO_RING);
	int i;
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		int fd = plain_open(NETLINK_USERSOCK), turn = 0;
		for (i = 0; i < total; i++) {
			size_t len = 16 + (i * step) % 6000;
			/* No more outstanding than frames: an overrun is another client's subject. */
			while (i - turn >= (int)g.nm_frame_nr) {
				char c;
				CHECK(recv(fd, &c, 1, 0) >= 0, "the reader is gone");
				turn++;
			}
			CHECK_CALL(plain_send(fd, msg_user(buf, len, i), len, s.port, 0));
		}
		_exit(0);
	}
	for (i = 0; i < total; i++) {
		size_t len = 16 + (i * step) % 6000;
		struct nl_mmap_hdr meta;
		ssize_t n = rx_take(&s, buf, sizeof buf, &meta, 5000);
		CHECK(n == (ssize_t)len, "message %d has %zd bytes, expected %zu", i, n, len);
		check_user(buf, n, i);
		CHECK(len <= s.rx.frame_size - NL_MMAP_HDRLEN || meta.nm_status == NL_MMAP_STATUS_COPY,
		      "%zu bytes VALID in a frame of %u", len, s.rx.frame_size);
		/* A credit for the sender, whose port is its pid, as the kernel chooses for a first socket. */
		if (i + (int)g.nm_frame_nr < total)
			CHECK(plain_send(s.fd, "", 1, pid, 0) == 1, "credit %d: %s", i, strerror(errno));
	}
	join_child(pid);
	CHECK(munmap(s.map, s.len) == 0, "munmap: %s", strerror(errno));
	close(s.fd);
}

static void dump(struct nl_mmap_req g)
{
	struct sock s = ring_open(NETLINK_ROUTE, g, NO_RING);
	unsigned seen = 0, done = 0;
	CHECK_CALL(plain_send(s.fd, msg_dump(buf, RTM_GETROUTE, AF_INET, 7), 28, 0, 0));
	while (!done) {
		struct nlmsghdr *n = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(&s, buf, sizeof buf, NULL, 3000);
		for (; NLMSG_OK(n, (size_t)len); n = NLMSG_NEXT(n, len)) {
			seen += n->nlmsg_type == RTM_NEWROUTE &&
				((struct rtmsg *)NLMSG_DATA(n))->rtm_table == RT_TABLE_MAIN;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	CHECK(seen == 2000, "frame size %u: %u of 2000 routes", g.nm_frame_size, seen);
	munmap(s.map, s.len);
	close(s.fd);
}

int main(void)
{
	static const struct { unsigned block, nr, frame; } g[] = {
		{ 4096, 1, 24 },     /* 170 frames that hold nothing */
		{ 4096, 1, 28 },     { 4096, 1, 4096 }, /* one frame */
		{ 8192, 1, 8192 },   { 65536, 1, 65536 }, /* one frame of 64 KiB */
		{ 4096, 3, 1500 },   { 12288, 2, 3000 }, /* slack at the end of every block */
		{ 4096, 2, 4092 },   { 4096, 16, 256 },
	};
	size_t i;
	lo_up();
	add_routes(2000);
	for (i = 0; i < sizeof g / sizeof *g; i++) {
		struct nl_mmap_req req = GEOM(g[i].block, g[i].nr, g[i].frame);
		messages(req, 400, 97);
		dump(req);
	}
	ok();
	return 0;
}
