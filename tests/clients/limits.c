/* Resources that run out (argv[1]: fds, memory, threads, seccomp): a clear errno at setsockopt or
 * mmap, or full service; never a socket that took its rings and then does not deliver. */
#include "msg.h"
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

static char buf[4096];

static void limit(int what, rlim_t n)
{
	struct rlimit r = { n, n };
	CHECK_CALL(setrlimit(what, &r));
}

static int without_rings(void)
{
	fprintf(stderr, "refused: %s\n", strerror(ENOPROTOOPT));
	return EXIT_REFUSED;
}

/* 0 when the socket got its rings and serves them, else the errno of the refusal. */
static int attempt(int fd, int sender, struct nl_mmap_req g)
{
	struct sock s = { .fd = fd };
	int i;
	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &g, sizeof g) < 0)
		return errno;
	s.len = req_bytes(g);
	s.map = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s.map == MAP_FAILED)
		return errno;
	s.rx = ring_at(s.map, g);
	s.port = port_of(fd);
	for (i = 0; i < 20; i++) {
		size_t len = i % 2 ? 100 : 2000;
		CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
	return 0;
}

static void deny(long nr)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof f / sizeof *f, f };
	CHECK_CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p));
}

static void is_clear(int e, const char *what)
{
	CHECK(e == 0 || e == ENOMEM || e == EMFILE || e == EPERM || e == EAGAIN || e == ENOBUFS,
	      "%s: refused with %s", what, strerror(e));
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "fds";
	int fd = plain_open(NETLINK_USERSOCK), sender = plain_open(NETLINK_USERSOCK), e;
	/* With nothing in the way first: a kernel without rings says so here. */
	e = attempt(plain_open(NETLINK_USERSOCK), sender, GEOM(4096, 4, 1024));
	if (e == ENOPROTOOPT)
		return without_rings();
	CHECK(e == 0, "without any limit: %s", strerror(e));
	if (!strcmp(mode, "fds")) {
		limit(RLIMIT_NOFILE, 8);
		while (dup(0) >= 0)
			;
		e = attempt(fd, sender, GEOM(4096, 4, 1024));
		is_clear(e, "no descriptor left");
	} else if (!strcmp(mode, "memory")) {
		int own = plain_open(NETLINK_USERSOCK);
		limit(RLIMIT_AS, 192 << 20);
		e = attempt(own, sender, GEOM(1 << 20, 512, 4096)); /* half a gigabyte */
		CHECK(e == ENOMEM || e == ENOBUFS, "half a gigabyte of ring under RLIMIT_AS: %s", strerror(e));
		/* the socket stays an ordinary one that works */
		CHECK_CALL(plain_send(sender, msg_user(buf, 100, 1), 100, port_of(own), 0));
	} else if (!strcmp(mode, "threads")) {
		CHECK_CALL(setgid(1001));
		limit(RLIMIT_NPROC, 0);
		CHECK_CALL(setuid(1000));
		e = attempt(fd, sender, GEOM(4096, 4, 1024));
		is_clear(e, "no thread may be started");
	} else if (!strcmp(mode, "seccomp")) {
		static const long calls[] = { SYS_memfd_create, SYS_mremap, SYS_recvmmsg, SYS_clone3, SYS_clone,
					      SYS_futex, SYS_madvise, SYS_sendmmsg, SYS_epoll_create1, SYS_eventfd2,
					      SYS_ppoll, SYS_recvmsg, SYS_mmap, SYS_ftruncate, SYS_getsockopt };
		size_t i;
		int st;
		for (i = 0; i < sizeof calls / sizeof *calls; i++) {
			pid_t pid = fork();
			CHECK_CALL(pid);
			if (pid == 0) {
				int own = plain_open(NETLINK_USERSOCK);
				alarm(10);
				deny(calls[i]);
				e = attempt(own, sender, GEOM(4096, 4, 1024));
				/* Not even the socket's family can be asked: as if there were no rings. */
				if (e != ENOPROTOOPT)
					is_clear(e, "a denied system call");
				_exit(0);
			}
			CHECK(waitpid(pid, &st, 0) == pid, "waitpid: %s", strerror(errno));
			CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0, "with system call %ld denied: status %x", calls[i], st);
		}
	} else
		FAIL("unknown mode %s", mode);
	ok();
	return 0;
}
