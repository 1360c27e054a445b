/* A fork child that goes into a sandbox and ends there, as a server's that looks at what strangers send: it has its parent's rings, and
 * never uses them. A call that the sandbox does not expect ends it. argv[1]: exit, _exit. */
#include <stddef.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "msg.h"

/* What OpenSSH allows its own such child of the calls that a C library makes at the end. */
static const unsigned allowed[] = { SYS_exit, SYS_exit_group, SYS_getpid, SYS_write, SYS_futex, SYS_brk, SYS_munmap, SYS_close,
				    SYS_rt_sigprocmask };

static void enter_sandbox(void)
{
	enum { N = sizeof allowed / sizeof *allowed };
	struct sock_filter f[N * 2 + 2];
	struct sock_fprog p = { 0, f };
	unsigned i;
	f[p.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (i = 0; i < N; i++) {
		f[p.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		f[p.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	f[p.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	CHECK_CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK_CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p));
}

int main(int argc, char **argv)
{
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 2, 1024), GEOM(4096, 1, 1024));
	char buf[256];
	pid_t pid;
	CHECK_CALL(pid = fork());
	if (pid == 0) {
		enter_sandbox();
		if (argc > 1 && !strcmp(argv[1], "_exit"))
			_exit(0);
		exit(0);
	}
	join_child(pid);
	/* The parent's rings are as they were. */
	tx_put(&s, msg_user(buf, 64, 1), 64);
	CHECK(tx_kick_to(&s, s.port, 0) == 64, "kick: %s", strerror(errno));
	check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), 1);
	ok();
	return 0;
}
