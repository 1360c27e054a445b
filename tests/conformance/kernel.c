/* Which netlink families and subsystems this kernel has; one name a line. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netfilter/nfnetlink_queue.h>

static int family(int proto)
{
	int fd = socket(AF_NETLINK, SOCK_RAW, proto);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* A bind to group or queue 1 of the subsystem is acknowledged with 0. */
static int binds(int subsys, int type, int attr, const void *cmd, unsigned len)
{
	struct { struct nlmsghdr n; struct nfgenmsg g; struct nlattr a; char data[8]; } m;
	char buf[512];
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), error;
	struct timeval t = { 2, 0 };
	if (fd < 0)
		return 0;
	memset(&m, 0, sizeof m);
	m.n = (struct nlmsghdr){ sizeof m.n + sizeof m.g + NLA_ALIGN(NLA_HDRLEN + len), subsys << 8 | type,
				 NLM_F_REQUEST | NLM_F_ACK, 1, 0 };
	m.g = (struct nfgenmsg){ AF_INET, NFNETLINK_V0, htons(1) };
	m.a = (struct nlattr){ NLA_HDRLEN + len, attr };
	memcpy(m.data, cmd, len);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	if (send(fd, &m, m.n.nlmsg_len, 0) < 0 || recv(fd, buf, sizeof buf, 0) < 36)
		return 0;
	memcpy(&error, buf + 16, 4);
	close(fd);
	return error == 0;
}

static int user_namespace(void)
{
	int st;
	pid_t pid = fork();
	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) < 0);
	return pid > 0 && waitpid(pid, &st, 0) == pid && WIFEXITED(st) && WEXITSTATUS(st) == 0;
}

int main(void)
{
	struct nfqnl_msg_config_cmd q = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	struct nfulnl_msg_config_cmd l = { NFULNL_CFG_CMD_BIND };
	if (family(NETLINK_GENERIC))
		puts("generic");
	if (family(NETLINK_KOBJECT_UEVENT))
		puts("uevent");
	if (family(NETLINK_NETFILTER))
		puts("netfilter");
	if (binds(NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, NFQA_CFG_CMD, &q, sizeof q))
		puts("nfqueue");
	if (binds(NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, NFULA_CFG_CMD, &l, sizeof l))
		puts("nflog");
	if (user_namespace())
		puts("user-namespace");
	return 0;
}
