/* pass.h: a descriptor goes through a socket of another family. */
#ifndef PASS_H
#define PASS_H
#include "ring.h"

static inline void send_fd(int via, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = { 0 }, c = 'f';
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(h), &fd, sizeof fd);
	CHECK(sendmsg(via, &m, 0) == 1, "sendmsg: %s", strerror(errno));
}

static inline int recv_fd(int via)
{
	char control[CMSG_SPACE(sizeof(int))], c;
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *h;
	int fd;
	CHECK(recvmsg(via, &m, MSG_CMSG_CLOEXEC) == 1, "recvmsg: %s", strerror(errno));
	h = CMSG_FIRSTHDR(&m);
	CHECK(h && h->cmsg_type == SCM_RIGHTS, "no descriptor came");
	memcpy(&fd, CMSG_DATA(h), sizeof fd);
	return fd;
}
#endif
