/* A ring socket's number is closed where no library call sees it and used again at once, by something else: every call on it
 * is about what it is now. argv[1]: how it is closed (close, close_range, dup2, io_uring), sweep (all numbers of the process at
 * once, the library's own among them), vfork (a child with descriptors of its own in its parent's memory). */
#include "msg.h"
#include "waiter.h"
#include <linux/io_uring.h>

enum { ROUNDS = 25 };

static char buf[4096], other_buf[4096];
static int sender; /* an ordinary netlink socket */
static uint32_t seq;

/* io_uring by hand: one IORING_OP_CLOSE. */
static void uring_close(int fd)
{
	struct io_uring_params p = { 0 };
	int ring = syscall(SYS_io_uring_setup, 2, &p);
	struct io_uring_sqe *sqes;
	unsigned *sq, *array, tail;
	size_t len;

	if (ring < 0)
		LACKING("io_uring: %s", strerror(errno));
	len = p.sq_off.array + p.sq_entries * sizeof(unsigned);
	sq = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	CHECK(sq != MAP_FAILED && sqes != MAP_FAILED, "io_uring's mappings: %s", strerror(errno));
	memset(sqes, 0, sizeof *sqes);
	sqes->opcode = IORING_OP_CLOSE;
	sqes->fd = fd;
	array = (unsigned *)((char *)sq + p.sq_off.array);
	tail = *(unsigned *)((char *)sq + p.sq_off.tail);
	array[tail & *(unsigned *)((char *)sq + p.sq_off.ring_mask)] = 0;
	__atomic_store_n((unsigned *)((char *)sq + p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "io_uring_enter: %s", strerror(errno));
	munmap(sq, len);
	munmap(sqes, p.sq_entries * sizeof *sqes);
	syscall(SYS_close, ring);
}

/* Gives `now`, which is open, the number `fd`, by no call that the library sees. */
static void become(const char *way, int fd, int now)
{
	if (!strcmp(way, "close"))
		CHECK(syscall(SYS_close, fd) == 0, "close: %s", strerror(errno));
	else if (!strcmp(way, "close_range"))
		CHECK(syscall(SYS_close_range, fd, fd, 0) == 0, "close_range: %s", strerror(errno));
	else if (!strcmp(way, "io_uring"))
		uring_close(fd);
	else
		CHECK(!strcmp(way, "dup2"), "unknown way %s", way);
	CHECK(syscall(SYS_dup2, now, fd) == fd, "dup2: %s", strerror(errno));
	CHECK(syscall(SYS_close, now) == 0, "close: %s", strerror(errno));
}

/* A socket with everything that a mistake could give away: a frame that waits, one to be sent. */
static struct sock bait(void)
{
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), GEOM(4096, 1, 1024));
	seq++;
	tx_put(&s, msg_user(buf, 64, seq), 64);
	CHECK(plain_send(s.fd, msg_user(buf, 100, seq), 100, s.port, 0) == 100, "send: %s", strerror(errno));
	CHECK(by_poll(s.fd, 1000) == 1, "the frame is not there");
	return s;
}

static void untouched(struct sock *s, const char *what)
{
	CHECK(status_of(frame_at(&s->tx, 0)) == NL_MMAP_STATUS_VALID, "%s: the old socket's frame was sent", what);
}

static int waits_nothing(int fd)
{
	return by_poll(fd, 0) == 0 && by_ppoll(fd, 0) == 0 && by_select(fd, 0) == 0 && by_pselect(fd, 0) == 0;
}

static void as_pipe(const char *way)
{
	struct sock s = bait();
	int p[2];
	struct nl_mmap_req req = GEOM(4096, 1, 1024);

	CHECK_CALL(pipe(p));
	become(way, s.fd, p[0]);
	CHECK(waits_nothing(s.fd), "an empty pipe is readable");
	CHECK(write(p[1], "pipe", 4) == 4, "write: %s", strerror(errno));
	CHECK(by_poll(s.fd, 0) == 1, "a pipe with data is not readable");
	CHECK(recv(s.fd, other_buf, 4, MSG_DONTWAIT) == -1 && errno == ENOTSOCK, "recv from a pipe: %s", strerror(errno));
	CHECK(read(s.fd, other_buf, 4) == 4 && !memcmp(other_buf, "pipe", 4), "read from a pipe");
	CHECK(send(s.fd, NULL, 0, 0) == -1 && errno == ENOTSOCK, "a kick of a pipe: %s", strerror(errno));
	CHECK(setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req) == -1 && errno == ENOTSOCK, "a ring on a pipe: %s",
	      strerror(errno));
	CHECK(mmap(NULL, s.len, PROT_READ, MAP_SHARED, s.fd, 0) == MAP_FAILED, "mmap of a pipe");
	untouched(&s, "pipe");
	CHECK(close(s.fd) == 0 && close(p[1]) == 0 && munmap(s.map, s.len) == 0, "tear-down");
}

static void as_file(const char *way)
{
	struct sock s = bait();
	int fd = open("/proc/self/comm", O_RDONLY);
	char *at;

	CHECK_CALL(fd);
	become(way, s.fd, fd);
	CHECK(read(s.fd, other_buf, 5) == 5 && !memcmp(other_buf, "reuse", 5), "read from a file");
	CHECK(close(s.fd) == 0, "close");
	CHECK_CALL(fd = open("/dev/zero", O_RDWR));
	CHECK(fd == s.fd, "the lowest number was not given again");
	at = mmap(NULL, s.len, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(at != MAP_FAILED && !at[0] && !munmap(at, s.len), "mmap of a file: %s", strerror(errno));
	CHECK(write(fd, "x", 1) == 1, "write to a file");
	untouched(&s, "file");
	CHECK(close(s.fd) == 0 && munmap(s.map, s.len) == 0, "tear-down");
}

static void as_netlink(const char *way)
{
	struct sock s = bait(), t;
	int fd = plain_open(NETLINK_USERSOCK);
	uint32_t port = port_of(fd);
	long end;

	become(way, s.fd, fd);
	CHECK(waits_nothing(s.fd), "an empty socket is readable");
	seq++;
	CHECK_CALL(plain_send(sender, msg_user(buf, 200, seq), 200, port, 0));
	/* The library's thread, too, has nothing to do with it. */
	for (end = now_ms() + 3; now_ms() < end;)
		sched_yield();
	CHECK(by_poll(s.fd, 1000) == 1, "a message came, and the socket is not readable");
	check_user(other_buf, recv(s.fd, other_buf, sizeof other_buf, MSG_DONTWAIT), seq);
	CHECK(recv(s.fd, other_buf, sizeof other_buf, MSG_DONTWAIT) == -1 && errno == EAGAIN, "recv of nothing: %s", strerror(errno));
	CHECK(tx_kick_to(&s, s.port, 0) <= 0, "the old socket's frame was sent by the new socket");
	untouched(&s, "netlink");
	t = ring_attach(s.fd, GEOM(4096, 2, 1024), GEOM(4096, 1, 1024));
	seq++;
	tx_put(&t, msg_user(buf, 64, seq), 64);
	CHECK(tx_kick_to(&t, port, 0) == 64, "a kick of the new socket: %s", strerror(errno));
	check_user(other_buf, rx_take(&t, other_buf, sizeof other_buf, NULL, 1000), seq);
	CHECK(close(t.fd) == 0 && munmap(t.map, t.len) == 0 && munmap(s.map, s.len) == 0, "tear-down");
}

/* By another ring socket. */
static void as_ring(const char *way)
{
	struct sock s = bait(), t = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), GEOM(4096, 1, 1024));
	int old = t.fd;
	become(way, s.fd, t.fd);
	t.fd = s.fd;
	/* Its old number is closed, its new one was not seen: a socket is known again by what it asks for. */
	CHECK(setsockopt(t.fd, SOL_NETLINK, NETLINK_RX_RING, &GEOM(4096, 2, 1024), sizeof(struct nl_mmap_req)) == -1 && errno == EBUSY,
	      "a ring set twice: %s", strerror(errno));
	seq++;
	tx_put(&t, msg_user(buf, 64, seq), 64);
	CHECK(tx_kick_to(&t, t.port, 0) == 64, "a kick: %s", strerror(errno));
	check_user(other_buf, rx_take(&t, other_buf, sizeof other_buf, NULL, 1000), seq);
	untouched(&s, "ring");
	CHECK(close(t.fd) == 0 && munmap(t.map, t.len) == 0 && munmap(s.map, s.len) == 0, "tear-down");
	CHECK(close(old) == -1 && errno == EBADF, "a number that is closed");
}

/* In an event loop: a registration that ended with its socket reports nothing. */
static void as_registered(const char *way)
{
	struct sock s = bait();
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 42 };
	int ep = epoll_create1(0), p[2];

	CHECK_CALL(ep);
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, s.fd, &e));
	CHECK(epoll_wait(ep, &e, 1, 1000) == 1 && e.data.u64 == 42, "the frame is not reported");
	CHECK_CALL(pipe(p));
	become(way, s.fd, p[0]);
	CHECK(epoll_wait(ep, &e, 1, 0) == 0, "a socket is reported that is gone");
	e = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 43 };
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, s.fd, &e) == 0, "EPOLL_CTL_ADD of a pipe: %s", strerror(errno));
	CHECK(epoll_wait(ep, &e, 1, 0) == 0, "an empty pipe is reported");
	CHECK(write(p[1], "x", 1) == 1 && epoll_wait(ep, &e, 1, 1000) == 1 && e.data.u64 == 43, "the pipe is not reported");
	CHECK(close(s.fd) == 0 && close(p[1]) == 0 && close(ep) == 0 && munmap(s.map, s.len) == 0, "tear-down");
}

/* A number that nobody saw keeps the socket: the kernel reports it on, in the client's words. */
static void as_kept(const char *way)
{
	struct sock s = bait();
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 42 };
	int ep = epoll_create1(0), p[2], kept = syscall(SYS_dup, s.fd);

	CHECK_CALL(ep);
	CHECK_CALL(kept);
	CHECK_CALL(epoll_ctl(ep, EPOLL_CTL_ADD, s.fd, &e));
	CHECK(epoll_wait(ep, &e, 1, 1000) == 1 && e.data.u64 == 42, "the frame is not reported");
	CHECK_CALL(pipe(p));
	become(way, s.fd, p[0]);
	CHECK(epoll_wait(ep, &e, 1, 0) == 0 || e.data.u64 == 42, "reported under a word that is not the client's: %#llx",
	      (unsigned long long)e.data.u64);
	seq++;
	CHECK_CALL(plain_send(sender, msg_user(buf, 200, seq), 200, s.port, 0));
	CHECK(epoll_wait(ep, &e, 1, 1000) == 1 && e.data.u64 == 42 && e.events == EPOLLIN, "a message for a socket that is kept: %#x %#llx",
	      e.events, (unsigned long long)e.data.u64);
	CHECK(close(s.fd) == 0 && close(p[1]) == 0 && close(ep) == 0 && syscall(SYS_close, kept) == 0 && munmap(s.map, s.len) == 0,
	      "tear-down");
}

/* Without a single call: the library's thread must move the frame. */
static void spins(struct sock *s, const char *when)
{
	long end = now_ms() + 10000;
	seq++;
	CHECK(syscall(SYS_sendto, sender, msg_user(buf, 100, seq), 100, 0,
		      &(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = s->port }, sizeof(struct sockaddr_nl)) == 100,
	      "send: %s", strerror(errno));
	while (!ready(&s->rx))
		CHECK(now_ms() < end, "%s: no frame comes to a client that makes no calls", when);
	check_user(other_buf, rx_next(s, other_buf, sizeof other_buf, NULL), seq);
}

/* As container runtimes do: everything from 3 on, the library's own numbers too. Then all numbers are the client's. */
static void sweep(void)
{
	static int given[1000];
	int round, n;
	for (round = 0; round < 5; round++) {
		struct sock s = bait(), kept = bait();
		CHECK(close(kept.fd) == 0, "close"); /* its mapping keeps it, by a number of the library's */
		CHECK(syscall(SYS_close_range, 3, ~0u, 0) == 0, "close_range: %s", strerror(errno));
		for (n = 0; n < 1000; n++)
			CHECK_CALL(given[n] = open("/dev/null", O_RDWR));
		for (n = 0; n < 1000; n++)
			CHECK(write(given[n], "x", 1) == 1 && close(given[n]) == 0, "number %d: %s", given[n], strerror(errno));
		untouched(&s, "sweep");
		untouched(&kept, "sweep");
		CHECK(munmap(s.map, s.len) == 0 && munmap(kept.map, kept.len) == 0, "munmap");
		sender = plain_open(NETLINK_USERSOCK);
		s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), NO_RING);
		spins(&s, "after a sweep");
		spins(&s, "after a sweep, again");
		CHECK(close(s.fd) == 0 && munmap(s.map, s.len) == 0, "tear-down");
	}
	/* The instance goes while the thread sleeps, and its socket stays. */
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), NO_RING);
	spins(&s, "before");
	CHECK(syscall(SYS_close_range, 100, ~0u, 0) == 0, "close_range: %s", strerror(errno));
	seq++;
	CHECK_CALL(plain_send(sender, msg_user(buf, 100, seq), 100, s.port, 0));
	check_user(other_buf, rx_take(&s, other_buf, sizeof other_buf, NULL, 2000), seq);
	CHECK(by_poll(s.fd, 5) == 0, "a wait that sleeps");
	spins(&s, "after the thread has lost its instance");
}

/* Its own descriptors, its parent's memory. */
static struct sock shared;
static int in_child(void *arg UNUSED_ARG)
{
	int p[2];
	if (syscall(SYS_close, shared.fd) || syscall(SYS_pipe, p) || syscall(SYS_dup2, p[0], shared.fd) != shared.fd)
		return 1;
	if (by_poll(shared.fd, 0) != 0)
		return 2;
	if (write(p[1], "pipe", 4) != 4 || read(shared.fd, other_buf, 4) != 4 || memcmp(other_buf, "pipe", 4))
		return 3;
	return close(shared.fd) ? 4 : 0;
}

static void vfork_child(void)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	int status, i;
	for (i = 0; i < ROUNDS; i++) {
		pid_t pid;
		shared = bait();
		pid = clone(in_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
		CHECK_CALL(pid);
		CHECK(waitpid(pid, &status, 0) == pid && status == 0, "in the child: status %#x", status);
		check_user(other_buf, rx_take(&shared, other_buf, sizeof other_buf, NULL, 1000), seq);
		CHECK(tx_kick_to(&shared, shared.port, 0) == 64, "the parent's socket: %s", strerror(errno));
		check_user(other_buf, rx_take(&shared, other_buf, sizeof other_buf, NULL, 1000), seq);
		CHECK(close(shared.fd) == 0 && munmap(shared.map, shared.len) == 0, "tear-down");
	}
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "close";
	int i;

	sender = plain_open(NETLINK_USERSOCK);
	set_ring(sender, NETLINK_RX_RING, (struct nl_mmap_req){ 4096, 1, 1024, 4 }); /* refused by the bare kernel */
	close(sender);
	sender = plain_open(NETLINK_USERSOCK);
	if (!strcmp(way, "sweep"))
		sweep();
	else if (!strcmp(way, "vfork"))
		vfork_child();
	else
		for (i = 0; i < ROUNDS; i++) {
			as_pipe(way);
			as_file(way);
			as_netlink(way);
			as_ring(way);
			as_registered(way);
			as_kept(way);
		}
	ok();
	return 0;
}
