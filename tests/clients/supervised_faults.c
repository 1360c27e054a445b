/* supervised_faults MODE: what faults.c and faults_further.c leave out and a supervisor answers otherwise than the library, by a client that
 * bears a failure at any place (faults.h).
 * calls     every call that names a number: its forms of waits, sends, receives, options, duplicates
 * people    children with other rights, in other namespaces, with a socket that only they have
 * room      a kick to a receiver without room
 * busy      rings that are mapped while their thread does not come to its turns
 * epoll     sleeps in epoll_wait until its supervisor is gone
 * witness   a stream of numbered messages in a ring, looked at without any call, until it is told to end (SIGTERM) */
#include "faults.h"
#include <grp.h>
#include <pthread.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>

enum { SMALL = 200, LARGE = 3000, FRAMES = 16, SPINNERS = 8 };

static int from;
static struct sock u;
static uint32_t sent, taken;
static volatile sig_atomic_t over;

static void end_it(int nr UNUSED_ARG)
{
	over = 1;
}

static void open_all(void)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	from = netlink(NETLINK_USERSOCK);
	AGAIN("bind", bind(from, (struct sockaddr *)&any, sizeof any));
	u = open_rings(NETLINK_USERSOCK);
}

static void close_all(void)
{
	AGAIN("munmap", munmap(u.map, u.len));
	AGAIN("close", close(u.fd));
	AGAIN("close", close(from));
}

/* The next numbered message for `u`. */
static void give(unsigned len)
{
	static char text[LARGE];
	AGAIN("the sender", plain_send(from, msg_user(text, len, sent), len, u.port, 0));
	sent++;
}

static void comes(void)
{
	check_user(buf, next(&u, by_poll), taken++);
}

static int by_ppoll(int ms)
{
	struct pollfd p[2] = { { u.fd, POLLIN, 0 }, { from, POLLIN, 0 } };
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	sigset_t none;
	sigemptyset(&none);
	return ppoll(p, 2, &t, &none);
}

static int by_select(int ms)
{
	struct timeval t = { ms / 1000, ms % 1000 * 1000 };
	fd_set set, no;
	FD_ZERO(&set);
	FD_ZERO(&no);
	FD_SET(u.fd, &set);
	return select(u.fd + 1, &set, &no, NULL, &t);
}

static int by_pselect(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	sigset_t none;
	fd_set set;
	sigemptyset(&none);
	FD_ZERO(&set);
	FD_SET(u.fd, &set);
	return pselect(u.fd + 1, &set, NULL, NULL, &t, &none);
}

static int by_epoll_of_all(int ms)
{
	struct epoll_event e;
	return epoll_wait(ep, &e, 1, ms);
}

/* A message comes while one of the calls waits, of which it is told. */
static void waited(const char *name, int (*wait)(int))
{
	long end = now_ms() + MS;
	pid_t pid;
	AGAIN(name, wait(0));
	pid = AGAIN("fork", fork());
	if (pid == 0) {
		msleep(20);
		give(SMALL);
		_exit(0);
	}
	sent++;
	for (int n = 0; n < 1;) {
		n = AGAIN(name, wait(1000));
		CHECK(n > 0 || now_ms() < end, "%s: nothing within %d ms", name, MS);
	}
	AGAIN("wait4", waitpid(pid, NULL, 0));
	comes();
}

/* A message that fits no frame, by one of the calls that take such. */
static void received(const char *name, int how)
{
	char rest[LARGE], room[256];
	struct sockaddr_nl a;
	struct iovec v[2] = { { buf, 1000 }, { rest, sizeof rest } };
	struct mmsghdr m = { .msg_hdr = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = v, .msg_iovlen = 2, .msg_control = room, .msg_controllen = sizeof room } };
	socklen_t len = sizeof a;
	ssize_t n = 0;
	give(LARGE);
	for (long end = now_ms() + MS; status_of(head(&u.rx)) != NL_MMAP_STATUS_COPY;) {
		CHECK(now_ms() < end, "%s: nothing within %d ms", name, MS);
		AGAIN("poll", by_ppoll(500));
	}
	switch (how) {
	case 0: n = AGAIN(name, read(u.fd, buf, sizeof buf)); break;
	case 1: n = AGAIN(name, readv(u.fd, v, 2)); break;
	case 2: n = AGAIN(name, recvfrom(u.fd, buf, sizeof buf, 0, (struct sockaddr *)&a, &len)); break;
	case 3: n = AGAIN(name, recvmsg(u.fd, &m.msg_hdr, 0)); break;
	default:
		AGAIN(name, recvmmsg(u.fd, &m, 1, MSG_DONTWAIT, NULL));
		n = m.msg_len;
	}
	if (how == 1 || how > 2)
		memcpy(buf + 1000, rest, LARGE - 1000);
	check_user(buf, n, taken++);
	set_status(head(&u.rx), NL_MMAP_STATUS_UNUSED);
	advance(&u.rx);
}

/* A message to itself by one of the calls that send. */
static void sent_by(const char *name, int how)
{
	char text[SMALL];
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = u.port };
	struct iovec v[2] = { { text, 100 }, { text + 100, SMALL - 100 } };
	struct mmsghdr m = { .msg_hdr = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = v, .msg_iovlen = 2 } };
	msg_user(text, SMALL, sent);
	switch (how) {
	case 0: AGAIN(name, write(u.fd, text, SMALL)); break;
	case 1: AGAIN(name, writev(u.fd, v, 2)); break;
	case 2: AGAIN(name, sendmsg(u.fd, &m.msg_hdr, 0)); break;
	default: AGAIN(name, sendmmsg(u.fd, &m, 1, 0));
	}
	sent++;
	comes();
}

static void options(void)
{
	int value = 1, names[][2] = { { SOL_SOCKET, SO_PASSCRED }, { SOL_NETLINK, NETLINK_PKTINFO }, { SOL_NETLINK, NETLINK_NO_ENOBUFS } };
	socklen_t len = sizeof value;
	for (unsigned i = 0; i < 6; i++) {
		int *name = names[i % 3];
		value = i < 3;
		AGAIN("setsockopt", setsockopt(u.fd, name[0], name[1], &value, sizeof value));
		value = -1;
		AGAIN("getsockopt", getsockopt(u.fd, name[0], name[1], &value, &len));
		CHECK(value == (i < 3), "option %d is %d", name[1], value);
	}
	AGAIN("getsockopt", getsockopt(u.fd, SOL_SOCKET, SO_ERROR, &value, &len));
	AGAIN("setsockopt", setsockopt(u.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &(int){ 5 }, sizeof(int)));
	AGAIN("setsockopt", setsockopt(u.fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &(int){ 5 }, sizeof(int)));
}

static void calls(void)
{
	struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	struct epoll_event e = { .events = EPOLLIN };
	int other;
	open_all();
	waited("ppoll", by_ppoll);
	waited("select", by_select);
	waited("pselect", by_pselect);
	received("read", 0);
	received("readv", 1);
	received("recvfrom", 2);
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	received("recvmsg", 3);
	received("recvmmsg", 4);
	AGAIN("connect", connect(u.fd, (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = u.port }, sizeof self));
	sent_by("write", 0);
	sent_by("writev", 1);
	sent_by("sendmsg", 2);
	sent_by("sendmmsg", 3);
	self.nl_family = AF_UNSPEC;
	AGAIN("connect", connect(u.fd, (struct sockaddr *)&self, sizeof self));
	options();
	ep = AGAIN("epoll_create", epoll_create(1));
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, u.fd, &e));
	waited("epoll_wait", by_epoll_of_all);
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_MOD, u.fd, &e));
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_DEL, u.fd, NULL));
	AGAIN("close", close(ep));
	other = AGAIN("fcntl", fcntl(u.fd, F_DUPFD_CLOEXEC, 3));
	AGAIN("dup2", dup2(u.fd, 3));
	AGAIN("close", close(3));
	AGAIN("close", close(u.fd));
	u.fd = other;
	give(SMALL);
	comes();
	close_all();
}

/* A child that does something of its own, in which it may give up. */
static void child(void (*what)(void))
{
	int status;
	pid_t pid = AGAIN("fork", fork());
	if (pid == 0) {
		what();
		_exit(0);
	}
	AGAIN("wait4", waitpid(pid, &status, 0));
	if (WIFEXITED(status) && (WEXITSTATUS(status) == EXIT_GIVEN_UP || WEXITSTATUS(status) == EXIT_REFUSED))
		_exit(WEXITSTATUS(status));
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", status);
}

/* Acknowledged, with `error`, by the kernel half of a socket that is made here. */
static void asks(struct sock *s)
{
	uint32_t seq = 1000 + getpid() % 1000;
	for (int try = 0;; try++) {
		ssize_t n;
		tx_put(s, msg_ack(buf, seq), NLMSG_HDRLEN);
		n = tx_kick(s);
		if (n >= 0)
			break;
		failures++;
		fprintf(stderr, "kick: %s\n", strerror(errno));
		if (try == TRIES)
			_exit(EXIT_GIVEN_UP);
		s->tx.pos = (s->tx.pos + s->tx.frame_nr - 1) % s->tx.frame_nr;
		if (status_of(head(&s->tx)) != NL_MMAP_STATUS_VALID)
			advance(&s->tx);
		else
			set_status(head(&s->tx), NL_MMAP_STATUS_UNUSED);
		seq++;
	}
	for (;;) {
		ssize_t len = next(s, by_poll);
		struct nlmsghdr *m = (void *)buf;
		if (m->nlmsg_seq == seq) {
			check_error(buf, len, seq, 0);
			return;
		}
	}
}

static void asks_anew(void)
{
	struct sock s = open_rings(NETLINK_ROUTE);
	asks(&s);
}

static void as_nobody(void)
{
	AGAIN("setgroups", syscall(SYS_setgroups, 1, &(gid_t){ 1234 }));
	AGAIN("setgid", syscall(SYS_setresgid, 65534, 65534, 65534));
	AGAIN("setuid", syscall(SYS_setresuid, 65534, 65534, 65534));
	give(SMALL);
	asks_anew();
}

static void elsewhere(void)
{
	AGAIN("unshare", unshare(CLONE_NEWNET));
	asks_anew();
}

static void as_root_of_its_own(void)
{
	struct pollfd p = { u.fd, POLLIN, 0 };
	AGAIN("unshare", unshare(CLONE_NEWUSER));
	/* What another sends is for everybody; in its own name it may not send by a socket of its parent's. */
	AGAIN("poll", poll(&p, 1, 0));
	CHECK(write(u.fd, "x", 1) < 0, "a message of somebody with other rights");
}

/* Only a child that calls nothing has the socket; then it calls. */
static void alone(void)
{
	int pair[2];
	pid_t pid;
	int status;
	AGAIN("pipe", pipe(pair));
	pid = AGAIN("fork", fork());
	if (pid == 0) {
		long end = now_ms() + MS;
		AGAIN("close", close(pair[1]));
		AGAIN("close", close(from));
		CHECK(AGAIN("read", read(pair[0], buf, 1)) == 0, "a byte");
		while (status_of(head(&u.rx)) == NL_MMAP_STATUS_UNUSED && now_ms() < end)
			msleep(1);
		comes();
		AGAIN("poll", poll(&(struct pollfd){ u.fd, POLLIN, 0 }, 1, 0));
		_exit(0);
	}
	AGAIN("close", close(u.fd));
	AGAIN("close", close(pair[0]));
	give(SMALL);
	AGAIN("close", close(pair[1]));
	AGAIN("wait4", waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_GIVEN_UP)
		_exit(EXIT_GIVEN_UP);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", status);
}

static void people(void)
{
	open_all();
	child(as_nobody);
	sent++;
	comes();
	child(elsewhere);
	child(as_root_of_its_own);
	alone();
	AGAIN("munmap", munmap(u.map, u.len));
	AGAIN("close", close(from));
}

static void slow_receiver(int fd, int total)
{
	char text[1024];
	msleep(40);
	for (int i = 0; i < total; i++)
		check_user(text, AGAIN("recv", recv(fd, text, sizeof text, 0)), i);
}

static void room(void)
{
	enum { TOTAL = 60 };
	int narrow = netlink(NETLINK_USERSOCK), small = 4096, status, put = 0;
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	char text[SMALL];
	uint32_t port;
	pid_t pid;
	AGAIN("setsockopt", setsockopt(narrow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
	AGAIN("bind", bind(narrow, (struct sockaddr *)&a, sizeof a));
	port = port_of(narrow);
	open_all();
	pid = AGAIN("fork", fork());
	if (pid == 0) {
		slow_receiver(narrow, TOTAL);
		_exit(0);
	}
	for (long end = now_ms() + 3 * MS; put < TOTAL || status_of(frame_at(&u.tx, (u.tx.pos + u.tx.frame_nr - 1) % u.tx.frame_nr)) == NL_MMAP_STATUS_VALID;) {
		CHECK(now_ms() < end, "no room within %d ms", 3 * MS);
		for (; put < TOTAL && status_of(head(&u.tx)) == NL_MMAP_STATUS_UNUSED; put++)
			tx_put(&u, msg_user(text, SMALL, put), SMALL);
		AGAIN("kick", tx_kick_to(&u, port, 0));
	}
	AGAIN("wait4", waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_GIVEN_UP)
		_exit(EXIT_GIVEN_UP);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the receiver ended with %#x", status);
	AGAIN("close", close(narrow));
	close_all();
}

static void *spin(void *arg UNUSED_ARG)
{
	while (!over)
		;
	return NULL;
}

static void busy(void)
{
	pthread_t spinners[SPINNERS];
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	AGAIN("affinity", sched_setaffinity(0, sizeof one, &one));
	for (int i = 0; i < SPINNERS; i++)
		CHECK(pthread_create(&spinners[i], NULL, spin, NULL) == 0, "pthread_create");
	for (int i = 0; i < 4; i++) {
		open_all();
		give(SMALL);
		comes();
		close_all();
	}
	over = 1;
	for (int i = 0; i < SPINNERS; i++)
		pthread_join(spinners[i], NULL);
}

static void sleeps(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	open_all();
	ep = AGAIN("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, u.fd, &e));
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (epoll_wait(ep, &e, 1, -1) < 0 || poll(&(struct pollfd){ u.fd, POLLIN, 0 }, 1, 0) < 0) {
			fprintf(stderr, "epoll_wait: %s\n", strerror(errno));
			_exit(errno == ENOSYS ? 42 : 1);
		}
	}
}

static void witness(void)
{
	struct sigaction action = { .sa_handler = end_it };
	AGAIN("sigaction", sigaction(SIGTERM, &action, NULL));
	open_all();
	puts("ready");
	fflush(stdout);
	while (!over) {
		long end = now_ms() + 4 * MS;
		give(SMALL);
		while (status_of(head(&u.rx)) == NL_MMAP_STATUS_UNUSED) {
			CHECK(now_ms() < end, "message %u has not come within %d ms", taken, 4 * MS);
			msleep(1);
		}
		comes();
		msleep(20);
	}
	printf("%u messages\n", taken);
	close_all();
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } modes[] = {
		{ "calls", calls }, { "people", people }, { "room", room }, { "busy", busy }, { "epoll", sleeps }, { "witness", witness },
	};
	for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
		if (argc > 1 && !strcmp(argv[1], modes[i].name)) {
			modes[i].run();
			return i < 4 ? report() : 0;
		}
	FAIL("unknown mode");
}
