/* A ring socket inherited over exec: mappings are gone, the socket is bound as it was, and rings can
 * be set on it anew. The second life is this program with the descriptor's number as its argument. */
#include "msg.h"

static void second_life(int fd, uint32_t port, char **argv)
{
	char buf[8192];
	struct sock s;
	int sender = plain_open(NETLINK_USERSOCK), i;
	(void)argv;
	CHECK(port_of(fd) == port, "the socket came with port %u, had %u", port_of(fd), port);
	s = ring_attach(fd, GEOM(8192, 2, 2048), GEOM(4096, 1, 2048));
	s.port = port;
	for (i = 0; i < 20; i++) {
		size_t len = i % 2 ? 100 : 5000;
		CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
	tx_put(&s, msg_user(buf, 64, 99), 64);
	CHECK(tx_kick_to(&s, port, 0) == 64, "kick: %s", strerror(errno));
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 99);
	ok();
	exit(0);
}

int main(int argc, char **argv)
{
	struct sock s;
	char fd[16], port[16], buf[256];
	if (argc == 3)
		second_life(atoi(argv[1]), strtoul(argv[2], NULL, 10), argv);
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), GEOM(4096, 1, 1024));
	CHECK_CALL(fcntl(s.fd, F_SETFD, 0));
	/* used before, all messages taken */
	tx_put(&s, msg_user(buf, 64, 1), 64);
	CHECK(tx_kick_to(&s, s.port, 0) == 64, "kick: %s", strerror(errno));
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
	/* other descriptors the first life holds die with it or are harmless */
	snprintf(fd, sizeof fd, "%d", s.fd);
	snprintf(port, sizeof port, "%u", s.port);
	execl("/proc/self/exe", argv[0], fd, port, (char *)NULL);
	FAIL("exec: %s", strerror(errno));
}
