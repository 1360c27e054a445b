/* A socket that comes from elsewhere: across exec, and by SCM_RIGHTS from another process. The program that gets it has
 * never made one, and sets its rings on it. */
#include "msg.h"

static char buf[16384];

static void use(int fd, int type)
{
	struct sock s = { .fd = fd };
	struct nl_mmap_req rx = GEOM(16384, 2, 8192), tx = GEOM(4096, 2, 2048);
	struct nlmsghdr *n;
	int got = 0, done = 0, is = -1;
	socklen_t len = sizeof is;
	ssize_t size;

	CHECK_CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, &is, &len));
	CHECK(is == type, "a socket of type %d", is);
	s.port = port_of(fd);
	CHECK(s.port != 0, "it was bound, and is not");
	CHECK_CALL(plain_send(fd, msg_ack(buf, 3), 16, 0, 0));
	CHECK_CALL(size = recv(fd, buf, sizeof buf, 0));
	check_error(buf, size, 3, 0);
	set_ring(fd, NETLINK_RX_RING, rx);
	set_ring(fd, NETLINK_TX_RING, tx);
	s.len = 2 * 16384 + 2 * 4096;
	s.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(s.map != MAP_FAILED, "mmap: %s", strerror(errno));
	s.rx = (struct ring){ s.map, 16384, 2, 8192, 4, 0 };
	s.tx = (struct ring){ s.map + 2 * 16384, 4096, 2, 2048, 4, 0 };
	tx_put(&s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(&s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		size = rx_take(&s, buf, sizeof buf, NULL, 3000);
		for (n = (struct nlmsghdr *)buf; NLMSG_OK(n, (size_t)size); n = NLMSG_NEXT(n, size)) {
			got += n->nlmsg_type == RTM_NEWLINK;
			done |= n->nlmsg_type == NLMSG_DONE;
		}
	}
	CHECK(got >= 1, "a dump without lo");
	munmap(s.map, s.len);
	close(fd);
}

static int made(int type)
{
	int fd = socket(AF_NETLINK, type, NETLINK_ROUTE);
	CHECK_CALL(fd);
	bind_groups(fd, 0);
	return fd;
}

static void give(int to, int fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	CHECK_CALL(sendmsg(to, &m, 0));
}

static int taken(int from)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	int fd;
	CHECK_CALL(recvmsg(from, &m, 0));
	CHECK(CMSG_FIRSTHDR(&m), "no descriptor came");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	return fd;
}

int main(int argc, char **argv)
{
	char number[16];
	int pair[2], fd, file;

	if (argc == 3) {
		use(atoi(argv[2]), SOCK_DGRAM);
		/* What is no socket stays what it is. */
		file = open("/proc/self/status", O_RDONLY);
		CHECK(send(file, "", 1, 0) < 0 && errno == ENOTSOCK, "a send to a file: %s", strerror(errno));
		CHECK(read(file, buf, 5) == 5 && !memcmp(buf, "Name:", 5), "a file that is read otherwise");
		ok();
		return 0;
	}
	CHECK_CALL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	switch (fork()) {
	case -1:
		FAIL("fork: %s", strerror(errno));
	case 0:
		close(pair[0]);
		give(pair[1], made(SOCK_RAW));
		_exit(0);
	}
	close(pair[1]);
	use(taken(pair[0]), SOCK_RAW);
	CHECK(waitpid(-1, NULL, 0) > 0, "waitpid: %s", strerror(errno));
	fd = made(SOCK_DGRAM);
	snprintf(number, sizeof number, "%d", fd);
	execl("/proc/self/exe", argv[0], "exec", number, (char *)NULL);
	FAIL("exec: %s", strerror(errno));
}
