/* Ways to leave (argv[1]): close with the mapping alive and never munmap; munmap whole; two munmaps,
 * one per half; rings freed and set again; the fd closed while a dump runs. */
#include "msg.h"

static char buf[8192];
static int sender;

static struct nl_mmap_req rx_geometry(void)
{
	return GEOM(4096, 4, 1024);
}

static struct sock open_both(void)
{
	return ring_open(NETLINK_USERSOCK, rx_geometry(), GEOM(4096, 2, 1024));
}

static int set_again(int fd, int opt)
{
	struct nl_mmap_req g = rx_geometry();
	return setsockopt(fd, SOL_NETLINK, opt, &g, sizeof g) < 0 ? -errno : 0;
}

static int free_ring(int fd, int opt)
{
	struct nl_mmap_req none = NO_RING;
	return setsockopt(fd, SOL_NETLINK, opt, &none, sizeof none) < 0 ? -errno : 0;
}

static void feed(struct sock *s, uint32_t seq, size_t len)
{
	CHECK_CALL(plain_send(sender, msg_user(buf, len, seq), len, s->port, 0));
}

/* From another socket: the frame is there at the latest when poll says so. */
static void await(struct sock *s)
{
	struct pollfd p = { s->fd, POLLIN, 0 };
	CHECK(poll(&p, 1, 2000) == 1 && ready(&s->rx), "no message");
}

static void close_mapped(void)
{
	struct sock s = open_both();
	int i;
	feed(&s, 1, 100);
	await(&s);
	CHECK_CALL(close(s.fd));
	CHECK(ready(&s.rx), "the mapping changed with close");
	for (i = 0; i < (int)(s.len / 4); i += 97)
		(void)*(volatile int *)(s.map + 4 * i); /* all of it stays readable */
	memset(s.map, 0, s.len);
	CHECK(fcntl(s.fd, F_GETFD) == -1 && errno == EBADF, "close left the number open");
	/* never unmapped: as clients that exit */
}

static void halves(void)
{
	struct sock s = open_both();
	size_t half = s.len / 2;
	CHECK(set_again(s.fd, NETLINK_RX_RING) == -EBUSY, "a mapped ring was set again");
	CHECK_CALL(munmap(s.map, half));
	CHECK(free_ring(s.fd, NETLINK_RX_RING) == -EBUSY, "a half mapped ring was freed");
	memset(s.map + half, 0, half);
	CHECK_CALL(munmap(s.map + half, half));
	CHECK(free_ring(s.fd, NETLINK_RX_RING) == 0, "the ring is free to go: %s", strerror(errno));
	CHECK(free_ring(s.fd, NETLINK_TX_RING) == 0, "the TX ring is free to go: %s", strerror(errno));
	CHECK_CALL(close(s.fd));
}

static void whole(void)
{
	int i;
	for (i = 0; i < 200; i++) { /* and nothing piles up: 200 endpoints, one after the other */
		struct sock s = open_both();
		feed(&s, i, i % 2 ? 100 : 2000);
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
		CHECK_CALL(munmap(s.map, s.len));
		CHECK_CALL(close(s.fd));
	}
}

/* After the rings are gone the socket is an ordinary one; then it gets rings of another shape. */
static void again(void)
{
	struct sock s = open_both();
	int fd = s.fd;
	uint32_t port = s.port;
	feed(&s, 1, 100);
	CHECK_CALL(munmap(s.map, s.len));
	CHECK(free_ring(fd, NETLINK_RX_RING) == 0, "RX: %s", strerror(errno));
	CHECK(free_ring(fd, NETLINK_TX_RING) == 0, "TX: %s", strerror(errno));
	CHECK(recv(fd, buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "freeing the ring kept a message");
	feed(&s, 2, 100);
	CHECK(recv(fd, buf, sizeof buf, 0) == 100, "recv without rings: %s", strerror(errno));
	check_user(buf, 100, 2);
	s = ring_attach(fd, GEOM(16384, 2, 4096), NO_RING);
	s.port = port;
	feed(&s, 3, 3000);
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 3);
	CHECK(munmap(s.map, s.len) == 0 && close(fd) == 0, "tear-down: %s", strerror(errno));
}

static void mid_dump(void)
{
	int i;
	lo_up();
	add_routes(3000);
	for (i = 0; i < 20; i++) {
		struct sock s = ring_open(NETLINK_ROUTE, GEOM(4096, 4, 4096), NO_RING);
		CHECK_CALL(plain_send(s.fd, msg_dump(buf, RTM_GETROUTE, AF_INET, 7), 28, 0, 0));
		if (i % 2)
			rx_take(&s, buf, sizeof buf, NULL, 2000);
		CHECK_CALL(close(s.fd));
		if (i % 3)
			CHECK_CALL(munmap(s.map, s.len));
	}
}

/* Two mappings of one socket show the same frames; the last one counts. */
static void twice(void)
{
	struct sock s = open_both(), t = s;
	t.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	CHECK(t.map != MAP_FAILED && t.map != s.map, "a second mmap: %s", strerror(errno));
	t.rx.base = t.map;
	feed(&s, 1, 100);
	await(&s);
	CHECK(status_of(head(&t.rx)) == status_of(head(&s.rx)) && ready(&t.rx), "the mappings differ");
	CHECK_CALL(munmap(s.map, s.len));
	CHECK(free_ring(s.fd, NETLINK_RX_RING) == -EBUSY, "a mapping is left");
	check_user(buf, rx_take(&t, buf, sizeof buf, NULL, 1000), 1);
	feed(&t, 2, 100);
	check_user(buf, rx_take(&t, buf, sizeof buf, NULL, 1000), 2);
	CHECK_CALL(munmap(t.map, t.len));
	CHECK(free_ring(s.fd, NETLINK_RX_RING) == 0, "no mapping is left: %s", strerror(errno));
	CHECK_CALL(close(s.fd));
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "whole";
	sender = plain_open(NETLINK_USERSOCK);
	if (!strcmp(mode, "close-mapped"))
		close_mapped();
	else if (!strcmp(mode, "halves"))
		halves();
	else if (!strcmp(mode, "whole"))
		whole();
	else if (!strcmp(mode, "again"))
		again();
	else if (!strcmp(mode, "mid-dump"))
		mid_dump();
	else if (!strcmp(mode, "twice"))
		twice();
	else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
