/* What only a supervised program can come across (argv[1]):
 * passed - a socket with rings goes to another process by SCM_RIGHTS; executed - rings stay set over exec;
 * filtered - the program has a filter of its own, and wants a listener; unreadable - pointers that lead nowhere;
 * changing - arguments change while they are read; network - a socket of another namespace. */
#include "msg.h"
#include "pass.h"
#include "waiter.h"
#include <pthread.h>
#include <stddef.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

static char buf[65536];

static void exchange(struct sock *s, uint32_t seq)
{
	tx_put(s, msg_user(buf, 64, seq), 64);
	CHECK(tx_kick_to(s, s->port, 0) == 64, "kick %u: %s", seq, strerror(errno));
	check_user(buf, rx_take(s, buf, sizeof buf, NULL, 2000), seq);
}

static struct sock open_both(void)
{
	return ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
}

static void turn(int pipe[2], int give)
{
	char c = 'x';
	CHECK((give ? write(pipe[1], &c, 1) : read(pipe[0], &c, 1)) == 1, "the other process is gone");
}

/* The receiver has an ordinary socket at its number; at a high one it has the rings as well. */
static void passed(void)
{
	struct nl_mmap_req req = GEOM(4096, 4, 1024);
	int pair[2], there[2], back[2], fd, high;
	struct sock s;
	pid_t pid;
	CHECK_CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK_CALL(pipe(there));
	CHECK_CALL(pipe(back));
	pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		struct sock mine;
		fd = recv_fd(pair[1]);
		CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req) < 0 && errno == ENOPROTOOPT,
		      "a ring at number %d: %s", fd, strerror(errno));
		/* an ordinary socket: it sends, and says who it is */
		CHECK(plain_send(fd, msg_user(buf, 80, 1), 80, port_of(fd), 0) == 80, "send: %s", strerror(errno));
		turn(back, 1);
		turn(there, 0);
		CHECK_CALL(high = fcntl(fd, F_DUPFD_CLOEXEC, 800));
		close(fd);
		mine = (struct sock){ .fd = high, .port = port_of(high), .len = 5 * 4096 };
		CHECK(setsockopt(high, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req) < 0 && errno == EBUSY,
		      "rings that are set: %s", strerror(errno));
		mine.map = mmap(NULL, mine.len, PROT_READ | PROT_WRITE, MAP_SHARED, high, 0);
		CHECK(mine.map != MAP_FAILED, "mmap: %s", strerror(errno));
		mine.rx = ring_at(mine.map, req);
		mine.tx = ring_at(mine.map + 4 * 4096, GEOM(4096, 1, 1024));
		mine.rx.pos = 2;
		mine.tx.pos = 1;
		exchange(&mine, 3);
		turn(back, 1);
		turn(there, 0); /* its maker has closed it */
		exchange(&mine, 4);
		_exit(0);
	}
	s = open_both();
	send_fd(pair[0], s.fd);
	turn(back, 0);
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
	exchange(&s, 2);
	turn(there, 1);
	turn(back, 0);
	CHECK_CALL(close(s.fd));
	CHECK_CALL(munmap(s.map, s.len));
	turn(there, 1);
	join_child(pid);
}

/* argv[2]: the program of the second life, which is this one, perhaps with other rights on its file. */
static void executed(int argc, char **argv)
{
	char fd[16], uid[16];
	struct sock s;
	if (argc > 4) {
		struct nl_mmap_req req = GEOM(4096, 4, 1024);
		int old = atoi(argv[3]);
		CHECK(geteuid() == (unsigned)atoi(argv[4]) && getuid() == geteuid(), "it runs as %u now", geteuid());
		CHECK(setsockopt(old, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req) < 0 && errno == EBUSY,
		      "rings that are set: %s", strerror(errno));
		s = (struct sock){ .fd = old, .port = port_of(old), .len = 5 * 4096 };
		s.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, old, 0);
		CHECK(s.map != MAP_FAILED, "mmap: %s", strerror(errno));
		s.rx = ring_at(s.map, req);
		s.tx = ring_at(s.map + 4 * 4096, GEOM(4096, 1, 1024));
		s.rx.pos = s.tx.pos = 1;
		exchange(&s, 2);
		s = open_both();
		exchange(&s, 3);
		return;
	}
	s = open_both();
	CHECK_CALL(fcntl(s.fd, F_SETFD, 0));
	exchange(&s, 1);
	snprintf(fd, sizeof fd, "%d", s.fd);
	snprintf(uid, sizeof uid, "%u", geteuid());
	execl(argv[2], argv[2], "executed", argv[2], fd, uid, (char *)NULL);
	FAIL("exec of %s: %s", argv[2], strerror(errno));
}

static void filtered(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof f / sizeof *f, f };
	struct sock s = open_both();
	exchange(&s, 1);
	CHECK(prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER, "no filter");
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs is not set");
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &p) < 0 && errno == EBUSY,
	      "a second listener: %s", strerror(errno));
	CHECK_CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p));
	CHECK(syscall(SYS_getppid) < 0 && errno == EDOM, "the filter does nothing");
	exchange(&s, 2);
	s = open_both();
	exchange(&s, 3);
}

#define REFUSED(what, error, ...) do { \
	errno = 0; \
	CHECK(raw(__VA_ARGS__) < 0 && errno == (error), "%s: %s", what, strerror(errno)); \
} while (0)

static void unreadable(void)
{
	struct sock s = open_both();
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* nothing; the last bytes before nothing; what can only be read */
	char *none = page + 4096, *edge = none - 4, *fixed = page;
	int ep, i, *len = (int *)(page + 64);
	struct nl_mmap_req req = GEOM(4096, 4, 1024);
	struct msghdr m = { 0 }, *header = (void *)(page + 256);
	struct pollfd *entry = (void *)(page + 128);
	void *nowhere[] = { none, edge, (void *)8, (void *)0xffff800000000000ul, (void *)-4096L };
	CHECK(page != MAP_FAILED, "mmap");
	CHECK_CALL(munmap(none, 4096));
	CHECK_CALL(ep = epoll_create1(EPOLL_CLOEXEC));
	*entry = (struct pollfd){ s.fd, POLLIN, 0 };
	*len = 4;
	for (i = 0; i < 5; i++) {
		long at = (long)nowhere[i];
		REFUSED("a ring", EFAULT, SYS_setsockopt, s.fd, SOL_NETLINK, NETLINK_RX_RING, at, sizeof req, 0);
		REFUSED("poll", EFAULT, SYS_poll, at, 1, 0, 0, 0, 0);
		REFUSED("ppoll", EFAULT, SYS_ppoll, (long)entry, 1, at, 0, 8, 0);
		REFUSED("select", EFAULT, SYS_select, s.fd + 1, at, 0, 0, 0, 0);
		REFUSED("pselect6", EFAULT, SYS_pselect6, s.fd + 1, 0, 0, 0, 0, at);
		REFUSED("epoll_ctl", EFAULT, SYS_epoll_ctl, ep, EPOLL_CTL_ADD, s.fd, at, 0, 0);
		REFUSED("sendto", EFAULT, SYS_sendto, s.fd, at, 64, 0, 0, 0);
		REFUSED("sendto, name", EFAULT, SYS_sendto, s.fd, (long)page, 64, 0, at, 12);
		REFUSED("write", EFAULT, SYS_write, s.fd, at, 64, 0, 0, 0);
		REFUSED("writev", EFAULT, SYS_writev, s.fd, at, 1, 0, 0, 0);
		REFUSED("sendmsg", EFAULT, SYS_sendmsg, s.fd, at, 0, 0, 0, 0);
		REFUSED("sendmmsg", EFAULT, SYS_sendmmsg, s.fd, at, 2, 0, 0, 0);
		REFUSED("recvmsg", EFAULT, SYS_recvmsg, s.fd, at, MSG_DONTWAIT, 0, 0, 0);
		REFUSED("readv", EFAULT, SYS_readv, s.fd, at, 1, 0, 0, 0);
		m = (struct msghdr){ .msg_iov = (void *)at, .msg_iovlen = 1 };
		*header = m;
		REFUSED("sendmsg, vectors", EFAULT, SYS_sendmsg, s.fd, (long)header, 0, 0, 0, 0);
		REFUSED("recvmsg, vectors", EFAULT, SYS_recvmsg, s.fd, (long)header, MSG_DONTWAIT, 0, 0, 0);
		if (nowhere[i] != edge) /* it holds four bytes */
			REFUSED("getsockopt", EFAULT, SYS_getsockopt, s.fd, SOL_SOCKET, SO_PASSCRED, at, (long)len, 0);
		if (nowhere[i] != edge)
			REFUSED("getsockopt, length", EFAULT, SYS_getsockopt, s.fd, SOL_SOCKET, SO_PASSCRED, (long)page, at, 0);
		/* A message by COPY: it is gone, as it was in the kernel, and the next one is not. */
		CHECK_CALL(plain_send(s.fd, msg_user(buf, 3000, i), 3000, s.port, 0));
		REFUSED("recvfrom", EFAULT, SYS_recvfrom, s.fd, at, 4096, MSG_DONTWAIT, 0, 0);
		CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_COPY, "the message has no frame");
		set_status(head(&s.rx), NL_MMAP_STATUS_UNUSED);
		advance(&s.rx);
		CHECK_CALL(plain_send(s.fd, msg_user(buf, 3000, 50 + i), 3000, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 50 + i);
	}
	/* Results that cannot be written. */
	CHECK_CALL(mprotect(page, 4096, PROT_READ));
	REFUSED("poll, result", EFAULT, SYS_poll, (long)entry, 1, 0, 0, 0, 0);
	REFUSED("getsockopt, result", EFAULT, SYS_getsockopt, s.fd, SOL_SOCKET, SO_PASSCRED, (long)fixed, (long)&(int){ 4 }, 0);
	REFUSED("a short ring", EINVAL, SYS_setsockopt, s.fd, SOL_NETLINK, NETLINK_RX_RING, (long)&req, 12, 0);
	REFUSED("more vectors than there can be", EMSGSIZE, SYS_sendmsg, s.fd,
		(long)&(struct msghdr){ .msg_iov = (void *)buf, .msg_iovlen = 1025 }, 0, 0, 0, 0);
	REFUSED("mmap of another length", EINVAL, SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, s.fd, 0);
	REFUSED("mmap at an odd place", EINVAL, SYS_mmap, 1, s.len, PROT_READ, MAP_SHARED | MAP_FIXED, s.fd, 0);
	exchange(&s, 99);
}

static struct {
	struct pollfd entries[64];
	struct iovec vectors[16];
	struct msghdr header;
	struct sockaddr_nl name;
	char message[4096];
} shared;
static volatile int stop;
static struct sock mine;

static void *change(void *arg UNUSED_ARG)
{
	uint64_t x = 88172645463325252ull;
	while (!stop) {
		static const uint32_t words[] = { 0, 1, 12, 16, 64, 900, 4096, 0x7fffffff, 0xffffffff, 0x10000 };
		volatile uint32_t *to = (void *)&shared;
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		to[x % (sizeof shared / 4)] = words[(x >> 40) % 10];
		if (x >> 60 == 0) {
			shared.entries[0].fd = mine.fd;
			shared.vectors[0] = (struct iovec){ shared.message, 64 };
			shared.header.msg_iov = shared.vectors;
			shared.header.msg_iovlen = 1;
		}
	}
	return NULL;
}

/* Every call is answered by something that the kernel could answer, and the rings of another socket are as they were. */
static void changing(void)
{
	struct sock other = open_both();
	long end = now_ms() + 3000;
	uint32_t i;
	pthread_t t;
	mine = open_both();
	CHECK(pthread_create(&t, NULL, change, NULL) == 0, "pthread_create");
	for (i = 0; now_ms() < end || i < 200; i++) {
		long start = now_ms(), r;
		switch (i % 8) {
		case 0: r = poll(shared.entries, 64, 0); break;
		case 1: r = sendmsg(mine.fd, &shared.header, MSG_DONTWAIT); break;
		case 2: r = recvmsg(mine.fd, &shared.header, MSG_DONTWAIT); break;
		case 3: r = writev(mine.fd, shared.vectors, 4); break;
		case 4: r = sendto(mine.fd, shared.message, 64, MSG_DONTWAIT, (void *)&shared.name, sizeof shared.name); break;
		case 5: r = select(mine.fd + 1, (void *)shared.message, (void *)(shared.message + 256), NULL, &(struct timeval){ 0, 0 }); break;
		case 6: r = setsockopt(mine.fd, SOL_NETLINK, NETLINK_RX_RING, shared.message, 16); break;
		default: r = getsockopt(mine.fd, SOL_SOCKET, SO_PASSCRED, shared.message, (void *)(shared.message + 64));
		}
		CHECK(r >= 0 || (errno > 0 && errno < 134), "call %u: %ld, error %d", i % 8, r, errno);
		CHECK(errno != ENOSYS, "call %u: nobody answers", i % 8);
		CHECK(now_ms() - start < 3000, "call %u took %ld ms", i % 8, now_ms() - start);
		if (i % 16 == 0)
			exchange(&other, i);
	}
	stop = 1;
	pthread_join(t, NULL);
	exchange(&other, i);
}

static unsigned links_of(struct sock *s)
{
	unsigned n = 0, done = 0;
	tx_put(s, msg_dump(buf, RTM_GETLINK, AF_UNSPEC, 7), 32);
	CHECK(tx_kick(s) == 32, "kick: %s", strerror(errno));
	while (!done) {
		struct nlmsghdr *h = (struct nlmsghdr *)buf;
		ssize_t len = rx_take(s, buf, sizeof buf, NULL, 2000);
		for (; NLMSG_OK(h, (size_t)len); h = NLMSG_NEXT(h, len)) {
			n += h->nlmsg_type == RTM_NEWLINK;
			done |= h->nlmsg_type == NLMSG_DONE;
		}
	}
	return n;
}

/* The first namespace has one interface more than the second. */
static void network(void)
{
	struct sock first = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 16384), GEOM(4096, 1, 1024)), second;
	unsigned n = links_of(&first);
	pid_t pid = fork();
	CHECK_CALL(pid);
	if (pid == 0) {
		CHECK_CALL(unshare(CLONE_NEWNET));
		second = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 16384), GEOM(4096, 1, 1024));
		CHECK(links_of(&second) == n - 1, "%u links in the new namespace, %u in the first", links_of(&second), n);
		_exit(0);
	}
	join_child(pid);
	CHECK(links_of(&first) == n, "another number of links than before");
	second = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 16384), GEOM(4096, 1, 1024));
	CHECK(links_of(&second) == n, "a later socket is in another namespace");
}

/* Root may make an interface; its child in a user namespace of its own may not, on a socket of the parent's. */
static void demoted(void)
{
	struct sock s = ring_open(NETLINK_ROUTE, GEOM(16384, 2, 8192), GEOM(4096, 1, 1024));
	int how;
	for (how = 0; how < 3; how++) {
		unsigned long flags[11] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD };
		pid_t pid = how == 0 ? syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)
			  : how == 1 ? syscall(SYS_clone3, flags, sizeof flags) : fork();
		CHECK_CALL(pid);
		if (pid == 0) {
			struct nlmsghdr *n = (void *)buf;
			if (how == 2)
				CHECK_CALL(unshare(CLONE_NEWUSER));
			/* down: what only an administrator may say */
			n = msg(buf, RTM_NEWLINK, NLM_F_ACK, how, sizeof(struct ifinfomsg));
			*(struct ifinfomsg *)NLMSG_DATA(n) = (struct ifinfomsg){ .ifi_index = 1, .ifi_change = IFF_UP };
			tx_put(&s, n, n->nlmsg_len);
			CHECK(tx_kick(&s) < 0 && errno == EPERM, "%d: a kick with rights that it has not: %s", how, strerror(errno));
			_exit(0);
		}
		join_child(pid);
		set_status(head(&s.tx), NL_MMAP_STATUS_UNUSED);
		CHECK(!ready(&s.rx), "an answer");
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "passed";
	if (!strcmp(mode, "passed"))
		passed();
	else if (!strcmp(mode, "executed"))
		executed(argc, argv);
	else if (!strcmp(mode, "filtered"))
		filtered();
	else if (!strcmp(mode, "unreadable"))
		unreadable();
	else if (!strcmp(mode, "changing"))
		changing();
	else if (!strcmp(mode, "network"))
		network();
	else if (!strcmp(mode, "demoted"))
		demoted();
	else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
