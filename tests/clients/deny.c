/* A kernel, or a sandbox, without some system calls: `deny NR ERRNO INDEX VALUE ... -- COMMAND` runs the command where call NR
 * fails with ERRNO if its argument INDEX is VALUE (INDEX 9: always). Numbers are decimal or 0x. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	struct sock_filter f[256];
	struct sock_fprog p = { 0, f };
	int i;
	for (i = 1; i + 4 < argc && strcmp(argv[i], "--") && p.len < 240; i += 4) {
		unsigned n[4], j;
		for (j = 0; j < 4; j++)
			n[j] = strtoul(argv[i + j], NULL, 0);
		f[p.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
		f[p.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n[0], 0, n[2] == 9 ? 1 : 3);
		if (n[2] != 9) {
			f[p.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
								  offsetof(struct seccomp_data, args[n[2]]));
			f[p.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n[3], 0, 1);
		}
		f[p.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | n[1]);
	}
	f[p.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (i >= argc || strcmp(argv[i], "--") || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p)) {
		perror("deny");
		return 125;
	}
	execvp(argv[i + 1], argv + i + 1);
	perror(argv[i + 1]);
	return 127;
}
