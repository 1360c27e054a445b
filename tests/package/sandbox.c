/* sandbox CMD...: runs a command under the seccomp filters that systemd makes of the unit's options. denied.h, made of
 * `systemd-analyze syscall-filter`, lists the calls of SystemCallFilter=~. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int denied[] = {
#include "denied.h"
};
static struct sock_filter program[2048];
static unsigned len;

static void step(unsigned short code, unsigned char yes, unsigned char no, unsigned k)
{
	program[len++] = (struct sock_filter){ code, yes, no, k };
}

static void number(void)
{
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
}

static void answer(int call, unsigned action)
{
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call);
	step(BPF_RET | BPF_K, 0, 0, action);
}

/* The call answers `error` when its argument has any of these bits, or all of them. */
static void bits(int call, unsigned argument, unsigned mask, int all, int error)
{
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, call);
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args) + 8 * argument);
	step(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask);
	step(BPF_JMP | BPF_JEQ | BPF_K, all ? 0 : 1, all ? 1 : 0, all ? mask : 0);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | error);
	number();
}

int main(int argc, char **argv)
{
	const unsigned namespaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | 0x80 /* CLONE_NEWTIME */;
	struct sock_fprog filter = { 0, program };
	unsigned i;
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
	/* SystemCallArchitectures=native */
	step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS);
	number();
	for (i = 0; i < sizeof denied / sizeof *denied; i++)
		answer(denied[i], SECCOMP_RET_KILL_PROCESS);
	/* RestrictNamespaces=user pid net cgroup: what has its flags in memory cannot be looked at, and is as on an old kernel. */
	answer(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS);
	bits(SYS_unshare, 0, namespaces, 0, EPERM);
	bits(SYS_clone, 0, namespaces & ~0x80, 0, EPERM);
	bits(SYS_setns, 1, namespaces, 0, EPERM);
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_setns);
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args) + 8);
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM);
	number();
	/* RestrictAddressFamilies=AF_UNIX AF_NETLINK */
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, SYS_socket);
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args));
	step(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, AF_UNIX);
	step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AF_NETLINK);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EAFNOSUPPORT);
	number();
	/* MemoryDenyWriteExecute=yes */
	bits(SYS_mmap, 2, PROT_EXEC | PROT_WRITE, 1, EPERM);
	bits(SYS_mprotect, 2, PROT_EXEC, 0, EPERM);
	/* RestrictRealtime=yes, RestrictSUIDSGID=yes */
	step(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_sched_setscheduler);
	step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args) + 8);
	step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SCHED_OTHER);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM);
	number();
	bits(SYS_chmod, 1, 06000, 0, EPERM);
	bits(SYS_fchmod, 1, 06000, 0, EPERM);
	bits(SYS_fchmodat, 2, 06000, 0, EPERM);
	/* LockPersonality=yes */
	answer(SYS_personality, SECCOMP_RET_ERRNO | EPERM);
	step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	filter.len = len;
	if (argc < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter))
		return perror("seccomp"), 127;
	execvp(argv[1], argv + 1);
	return perror(argv[1]), 127;
}
