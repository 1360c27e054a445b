/* every_hook.h: calls every hook, with rings on one socket and without on others, by nothing of the C library but the hooks
 * themselves and raw system calls: it may not have been initialized yet. */
#ifndef EVERY_HOOK_H
#define EVERY_HOOK_H
#include "ring.h"
#include <sys/wait.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The checked forms, by name: what a fortified program calls. */
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
extern ssize_t __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern ssize_t __read_chk(int, void *, size_t, size_t);

/* No program is linked with these any more; older ones were. */
extern int __fxstat(int, int, struct stat *) __attribute__((weak));
extern int __fxstat64(int, int, struct stat64 *) __attribute__((weak));

static char what[200];
static int calls;

/* Nothing of the C library but system calls here: it has not been initialized. */
static void must(int holds, const char *call)
{
	calls++;
	if (!holds && !what[0]) {
		size_t i;
		for (i = 0; call[i] && i + 1 < sizeof what; i++)
			what[i] = call[i];
	}
}
#define MUST(cond) must((cond), #cond)

static volatile int caught;
static void handler(int n)
{
	caught = n;
}

static void close_and_dup(void)
{
	struct stat st;
	struct stat64 st64;
	int p[2], d;
	MUST(syscall(SYS_pipe, p) == 0);
	MUST((d = dup(p[0])) >= 0);
	MUST(dup2(p[0], 90) == 90);
	MUST(dup3(p[0], 91, O_CLOEXEC) == 91);
	MUST(fcntl(p[0], F_DUPFD, 92) == 92);
	MUST(fcntl(91, F_GETFD) == FD_CLOEXEC);
	MUST(fstat(p[0], &st) == 0 && S_ISFIFO(st.st_mode));
	MUST(fstat64(p[0], &st64) == 0 && S_ISFIFO(st64.st_mode));
	MUST(!__fxstat || (__fxstat(1, p[0], &st) == 0 && S_ISFIFO(st.st_mode)));
	MUST(!__fxstat64 || (__fxstat64(1, p[0], &st64) == 0 && S_ISFIFO(st64.st_mode)));
	MUST(fcntl64(p[0], F_SETFL, O_NONBLOCK) == 0);
	MUST(close(d) == 0);
	MUST(close(d) == -1 && errno == EBADF);
#if GLIBC_AT_LEAST(2, 34)
	MUST(close_range(90, 92, 0) == 0);
	MUST(dup2(p[0], 95) == 95);
	closefrom(94);
	MUST(fcntl(95, F_GETFD) == -1 && errno == EBADF);
#endif
	MUST(close(p[0]) == 0 && close(p[1]) == 0);
}

static void transfer(void)
{
	struct timespec none = { 0, 0 }, some = { 1, 0 };
	struct timeval zero = { 0, 0 };
	struct mmsghdr mm[1];
	struct iovec v = { "word", 4 }, into;
	struct msghdr m;
	struct pollfd p;
	struct epoll_event e;
	char buf[16];
	fd_set set;
	int s[2], ep;

	MUST(syscall(SYS_socketpair, AF_UNIX, SOCK_DGRAM, 0, s) == 0);
	into.iov_base = buf;
	into.iov_len = sizeof buf;
	m.msg_name = NULL;
	m.msg_namelen = 0;
	m.msg_control = NULL;
	m.msg_controllen = 0;
	m.msg_flags = 0;
	m.msg_iov = &v;
	m.msg_iovlen = 1;
	mm[0].msg_hdr = m;
	MUST(send(s[0], "word", 4, 0) == 4 && recv(s[1], buf, sizeof buf, 0) == 4);
	MUST(sendto(s[0], "word", 4, 0, NULL, 0) == 4 && recvfrom(s[1], buf, sizeof buf, 0, NULL, NULL) == 4);
	MUST(sendmsg(s[0], &m, 0) == 4 && __recv_chk(s[1], buf, sizeof buf, sizeof buf, 0) == 4);
	MUST(sendmmsg(s[0], mm, 1, 0) == 1 && mm[0].msg_len == 4);
	MUST(__recvfrom_chk(s[1], buf, sizeof buf, sizeof buf, 0, NULL, NULL) == 4);
	MUST(write(s[0], "word", 4) == 4 && read(s[1], buf, sizeof buf) == 4);
	MUST(writev(s[0], &v, 1) == 4 && readv(s[1], &into, 1) == 4);
	MUST(write(s[0], "word", 4) == 4 && __read_chk(s[1], buf, sizeof buf, sizeof buf) == 4);
	m.msg_iov = &into;
	mm[0].msg_hdr = m;
	MUST(send(s[0], "word", 4, 0) == 4 && recvmsg(s[1], &m, 0) == 4);
	MUST(send(s[0], "word", 4, 0) == 4 && recvmmsg(s[1], mm, 1, 0, NULL) == 1 && mm[0].msg_len == 4);
	MUST(recv(s[1], buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN);

	p.fd = s[1];
	p.events = POLLIN;
	MUST(poll(&p, 1, 0) == 0 && __poll_chk(&p, 1, 0, sizeof p) == 0);
	MUST(ppoll(&p, 1, &none, NULL) == 0 && __ppoll_chk(&p, 1, &none, NULL, sizeof p) == 0);
	MUST(send(s[0], "word", 4, 0) == 4);
	MUST(poll(&p, 1, 1000) == 1 && ppoll(&p, 1, &some, NULL) == 1 && some.tv_sec == 1);
	FD_ZERO(&set);
	FD_SET(s[1], &set);
	MUST(select(s[1] + 1, &set, NULL, NULL, &zero) == 1);
	MUST(pselect(s[1] + 1, &set, NULL, NULL, &some, NULL) == 1 && some.tv_sec == 1);
	MUST((ep = syscall(SYS_epoll_create1, 0)) >= 0);
	e.events = EPOLLIN;
	e.data.u64 = 7;
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s[1], &e) == 0);
	e.data.u64 = 0;
	MUST(epoll_wait(ep, &e, 1, 0) == 1 && e.data.u64 == 7);
	MUST(epoll_pwait(ep, &e, 1, 0, NULL) == 1 && e.data.u64 == 7);
#if GLIBC_AT_LEAST(2, 35)
	MUST(epoll_pwait2(ep, &e, 1, &none, NULL) == 1 || errno == ENOSYS);
#endif
	MUST(close(ep) == 0 && close(s[0]) == 0 && close(s[1]) == 0);
}

static void names(void)
{
	struct sockaddr_nl a;
	socklen_t len = sizeof a;
	int value = 0, fd, s[2];

	MUST((fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK)) >= 0);
	a.nl_family = AF_NETLINK;
	a.nl_pad = 0;
	a.nl_pid = 0;
	a.nl_groups = 0;
	MUST(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
	MUST(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && len == sizeof a && a.nl_pid != 0);
	MUST(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
	value = a.nl_pid;
	MUST(getpeername(fd, (struct sockaddr *)&a, &len) == 0 && (int)a.nl_pid == value);
	MUST(close(fd) == 0);
	MUST(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, s) == 0 && write(s[0], "word", 4) == 4);
	MUST(ioctl(s[1], FIONREAD, &value) == 0 && value == 4);
	MUST(shutdown(s[0], SHUT_RDWR) == 0 && send(s[0], "w", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	MUST(close(s[0]) == 0 && close(s[1]) == 0);
}

static void memory(void)
{
	char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(at != MAP_FAILED);
	MUST(mmap64(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
	MUST(msync(at, 4096, MS_SYNC) == 0);
	MUST((at = mremap(at, 8192, 16384, MREMAP_MAYMOVE)) != MAP_FAILED);
	MUST(munmap(at, 16384) == 0);
	MUST(munmap((void *)1, 4096) == -1 && errno == EINVAL);
}

static void signals(void)
{
	struct sigaction a = { 0 }, old;
	a.sa_handler = handler;
	MUST(sigaction(SIGUSR1, &a, NULL) == 0 && sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_handler == handler);
	MUST(signal(SIGUSR2, handler) == SIG_DFL);
	MUST(syscall(SYS_kill, syscall(SYS_getpid), SIGUSR1) == 0 && caught == SIGUSR1);
	MUST(syscall(SYS_kill, syscall(SYS_getpid), SIGUSR2) == 0 && caught == SIGUSR2);
	MUST(sigaction(0, &a, NULL) == -1 && errno == EINVAL);
	MUST(signal(SIGUSR1, SIG_DFL) == handler && signal(SIGUSR2, SIG_DFL) == handler);
}

static int refused;

/* A ring socket of that time. */
static void rings(void)
{
	struct nl_mmap_req req = GEOM(4096, 1, 2048);
	struct { struct nlmsghdr h; int error[5]; } m = { { NLMSG_LENGTH(0), NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, 1, 0 }, { 0 } };
	int fd = syscall(SYS_socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	volatile unsigned *map;
	int value = 0;
	socklen_t len = sizeof value;

	MUST(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, &len) == 0 && value > 0);
	MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, sizeof value) == 0);
	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &req, sizeof req)) {
		refused = errno;
		close(fd);
		return;
	}
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(map != MAP_FAILED);
	MUST(send(fd, &m.h, sizeof m.h, 0) == sizeof m.h && map[0] == NL_MMAP_STATUS_VALID && map[1] == 36);
	MUST(close(fd) == 0 && munmap((void *)map, 4096) == 0);
}

/* A forked child ends by each; the counters of its rings are its own. */
static inline void ends(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0)
		_exit(7);
	MUST(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	pid = fork();
	if (pid == 0)
		_Exit(8);
	MUST(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 8);
}

static inline void every_hook(void)
{
	close_and_dup();
	transfer();
	names();
	memory();
	signals();
	rings();
	ends();
}

/* The end of such a program: what was called early must have done what it does now. */
static inline int same_in_main(const char *when)
{
	int before = calls;
	if (what[0])
		FAIL("%s: %s", when, what);
	if (refused == ENOPROTOOPT) {
		fprintf(stderr, "refused: %s\n", strerror(refused));
		return EXIT_REFUSED;
	}
	CHECK(!refused, "rings, %s: %s", when, strerror(refused));
	CHECK(before > 50, "%s: only %d calls", when, before);
	every_hook();
	CHECK(!what[0], "in main: %s", what);
	CHECK(calls == 2 * before, "%d calls in main, %d %s", calls - before, before, when);
	ok();
	return 0;
}
#endif
