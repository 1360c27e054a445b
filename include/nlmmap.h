/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * nlmmap: memory-mapped netlink through a device node, version 1.
 *
 * An open file of the node is one netlink socket with its rings. Every ioctl is in the restricted form: size and
 * direction are in its number, arguments hold no pointers. The same numbers serve both kinds of node.
 *
 *	fd = open("/dev/nlmmap", O_RDWR | O_CLOEXEC);
 *	ioctl(fd, NLMMAP_SOCKET, &(struct nlmmap_socket){ SOCK_RAW, NETLINK_ROUTE });
 *	ioctl(fd, NLMMAP_BIND, &(struct sockaddr_nl){ .nl_family = AF_NETLINK });
 *	ioctl(fd, NLMMAP_RX_RING, &req);
 *	ioctl(fd, NLMMAP_TX_RING, &req);
 *	ioctl(fd, NLMMAP_MAP_INFO, &info);
 *	rings = mmap(NULL, info.rx_len + info.tx_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
 *
 * read() gives one message: with an RX ring only those whose frame is NL_MMAP_STATUS_COPY. write() sends one message
 * to the kernel (or the connected peer). poll(), select() and epoll answer as for a netlink socket with rings.
 */
#ifndef NLMMAP_H
#define NLMMAP_H

#include <linux/ioctl.h>
#include <linux/netlink.h>
#include <linux/types.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NLMMAP_ABI 1

/* Kinds of node. */
#define NLMMAP_NODE_FUSE 1
#define NLMMAP_NODE_CUSE 2

/* Features: bits of nlmmap_version.features. */
#define NLMMAP_F_MAP_NODE 1ULL   /* the node itself can be mapped */
#define NLMMAP_F_MAP_MEMORY 2ULL /* rings lie in a memfd of the client, given by NLMMAP_MEMORY */
#define NLMMAP_F_SOCKET_CALLS 4ULL /* the calls from NLMMAP_GETPEERNAME on */

struct nlmmap_version {
	__u32 abi;  /* NLMMAP_ABI of the daemon */
	__u32 node; /* NLMMAP_NODE_* */
	__u64 features;
};

/* As socket(AF_NETLINK, type, protocol), in the caller's network namespace. NLMMAP_SOCKET_STRICT in the type asks for
 * Linux 4.5's answers, faults included; setting rings is then the client's own affair as far as rights go. */
#define NLMMAP_SOCKET_STRICT 0x80000000U
struct nlmmap_socket {
	__u32 type;
	__u32 protocol;
};

/* As setsockopt and getsockopt of an int. */
struct nlmmap_sockopt {
	__s32 level;
	__s32 name;
	__s32 value;
};

/* How to map the rings. */
#define NLMMAP_MAP_NODE 1   /* mmap the node's descriptor at offset 0 */
#define NLMMAP_MAP_MEMORY 2 /* make a memfd of rx_len + tx_len bytes, seal it, give it by NLMMAP_MEMORY, mmap it */

/* From this call on the rings can no longer be changed (EBUSY), and a memfd has its final size. */
struct nlmmap_map_info {
	__u32 how;
	__u32 pad;
	__u64 rx_len; /* bytes of the RX ring, which comes first; 0 for none */
	__u64 tx_len;
};

/* As sendto(fd, NULL, 0, ...): sends every VALID frame of the TX ring. When a receiver in user space has no room it waits
 * until there is some, for SO_SNDTIMEO at most (EAGAIN, and the frame is gone), or until a signal comes (EINTR, if nothing
 * has been sent: the frame stays VALID, and the next kick begins with it). O_NONBLOCK says nothing here. */
struct nlmmap_kick {
	struct sockaddr_nl dest;
	__u32 dest_len; /* 0 (the connected peer, or the kernel), or sizeof(struct sockaddr_nl); | NLMMAP_KICK_DONTWAIT */
	__u64 sent;     /* out: the sum of the lengths sent */
};
/* As MSG_DONTWAIT: no waiting, but EAGAIN, and the frame is gone. */
#define NLMMAP_KICK_DONTWAIT 0x80000000U

/*
 * What a socket call tells or takes that read() and write() do not: NLMMAP_F_SOCKET_CALLS. Nothing here sleeps; EAGAIN
 * means not now. poll() answers POLLMSG while there is a message for NLMMAP_RECV (POLLIN also stands for frames).
 *
 * The size of an argument that carries bytes is part of the ioctl's number: its structure and as many bytes.
 */

/* The most bytes of a message, and of ancillary data, that one argument carries. */
#define NLMMAP_MESSAGE_ROOM 16000
#define NLMMAP_CONTROL_ROOM 256

/* As sendto() of the bytes that follow, of all or none. */
struct nlmmap_send {
	struct sockaddr_nl dest;
	__u32 dest_len; /* 0 (the connected peer, or the kernel), or sizeof(struct sockaddr_nl) */
	__u32 flags;    /* 0, or NLMMAP_SEND_NEXT */
};
/* No bytes follow: this thread's next write() carries them, and goes there. For messages of more than
 * NLMMAP_MESSAGE_ROOM. */
#define NLMMAP_SEND_NEXT 0x80000000U

/*
 * What NLMMAP_RECV and NLMMAP_PEEK answer: this, then control_len bytes of ancillary data (struct cmsghdr), then, from
 * the next multiple of 8 on, data_len bytes of the message.
 *
 * A message longer than the argument has room for is cut (MSG_TRUNC), as by recvmsg(). Only if the argument is of the
 * largest size, with room for NLMMAP_MESSAGE_ROOM bytes, does it stay where it is (NLMMAP_MESSAGE_STAYS).
 */
struct nlmmap_message {
	__u32 len;         /* of the message, all of it */
	__u32 flags;       /* MSG_TRUNC, MSG_CTRUNC, NLMMAP_MESSAGE_STAYS */
	__u32 control_len;
	__u32 data_len;
	struct sockaddr_nl name; /* of the sender */
	__u32 pad;
	__u64 serial; /* for NLMMAP_PART */
};
#define NLMMAP_MESSAGE_STAYS 0x80000000U

/* A part of the message that stays: the bytes from offset on follow. ESTALE: somebody else has received that message
 * since. With room for no bytes the message is taken away. */
struct nlmmap_part {
	__u64 serial;
	__u32 offset;
	__u32 data_len; /* out */
};

/* As setsockopt() and getsockopt() of the len bytes that follow. The value of SO_ATTACH_FILTER is the filter's
 * instructions. */
struct nlmmap_opt {
	__s32 level;
	__s32 name;
	__u32 len;
};

/*
 * Says whether the calling process maps the rings. While any process that said so lives and has not taken it back, they
 * stay as they are (EBUSY), as those of a socket did. The answer is as from NLMMAP_MAP_INFO, which is for good.
 */
struct nlmmap_mapped {
	__u32 mapped; /* 0 or 1 */
	__u32 how;
	__u64 rx_len;
	__u64 tx_len;
};

/* As NLMMAP_KICK, by sendmsg() with SCM_CREDENTIALS: what receivers shall see of the sender. The kernel judges whether
 * the caller may say so; a process id is the worker's own, or needs CAP_SYS_ADMIN. */
struct nlmmap_kick_as {
	struct nlmmap_kick kick;
	__u32 flags; /* 0 */
	__u32 pid;
	__u32 uid;
	__u32 gid;
};

/* What an open file is. */
struct nlmmap_state {
	__u32 type;
	__u32 protocol;
	__u32 rings; /* NLMMAP_STATE_* */
	__u32 pad;
	__u64 handle; /* no other open file of this daemon has or had it */
	__u64 inode;  /* of the netlink socket, as in /proc/net/netlink */
};
#define NLMMAP_STATE_RX 1
#define NLMMAP_STATE_TX 2

#define NLMMAP_MAGIC 0xDA
#define NLMMAP_VERSION _IOR(NLMMAP_MAGIC, 0x00, struct nlmmap_version)
#define NLMMAP_SOCKET _IOW(NLMMAP_MAGIC, 0x01, struct nlmmap_socket)
#define NLMMAP_BIND _IOW(NLMMAP_MAGIC, 0x02, struct sockaddr_nl)
#define NLMMAP_CONNECT _IOW(NLMMAP_MAGIC, 0x03, struct sockaddr_nl)
#define NLMMAP_GETSOCKNAME _IOR(NLMMAP_MAGIC, 0x04, struct sockaddr_nl)
#define NLMMAP_ADD_MEMBERSHIP _IOW(NLMMAP_MAGIC, 0x05, __u32)
#define NLMMAP_DROP_MEMBERSHIP _IOW(NLMMAP_MAGIC, 0x06, __u32)
#define NLMMAP_SETSOCKOPT _IOW(NLMMAP_MAGIC, 0x07, struct nlmmap_sockopt)
#define NLMMAP_GETSOCKOPT _IOWR(NLMMAP_MAGIC, 0x08, struct nlmmap_sockopt)
#define NLMMAP_RX_RING _IOW(NLMMAP_MAGIC, 0x09, struct nl_mmap_req)
#define NLMMAP_TX_RING _IOW(NLMMAP_MAGIC, 0x0a, struct nl_mmap_req)
#define NLMMAP_MAP_INFO _IOR(NLMMAP_MAGIC, 0x0b, struct nlmmap_map_info)
/* CUSE nodes: the number of a memfd, sealed with F_SEAL_SHRINK and not against writing. What has come since the rings were
 * set comes along. EBUSY: the rings lie in a client's memory already. */
#define NLMMAP_MEMORY _IOW(NLMMAP_MAGIC, 0x0c, __s32)
#define NLMMAP_KICK _IOWR(NLMMAP_MAGIC, 0x0d, struct nlmmap_kick)
/* As getsockopt(SO_ERROR): takes the pending error. */
#define NLMMAP_GET_ERROR _IOR(NLMMAP_MAGIC, 0x0e, __s32)

#define NLMMAP_GETPEERNAME _IOR(NLMMAP_MAGIC, 0x0f, struct sockaddr_nl)
#define NLMMAP_SEND(bytes) _IOC(_IOC_WRITE, NLMMAP_MAGIC, 0x10, sizeof(struct nlmmap_send) + (bytes))
#define NLMMAP_RECV(bytes) \
	_IOC(_IOC_READ, NLMMAP_MAGIC, 0x11, sizeof(struct nlmmap_message) + NLMMAP_CONTROL_ROOM + (bytes))
#define NLMMAP_PEEK(bytes) \
	_IOC(_IOC_READ, NLMMAP_MAGIC, 0x12, sizeof(struct nlmmap_message) + NLMMAP_CONTROL_ROOM + (bytes))
#define NLMMAP_PART(bytes) _IOC(_IOC_READ | _IOC_WRITE, NLMMAP_MAGIC, 0x13, sizeof(struct nlmmap_part) + (bytes))
#define NLMMAP_SETOPT(bytes) _IOC(_IOC_WRITE, NLMMAP_MAGIC, 0x14, sizeof(struct nlmmap_opt) + (bytes))
#define NLMMAP_GETOPT(bytes) _IOC(_IOC_READ | _IOC_WRITE, NLMMAP_MAGIC, 0x15, sizeof(struct nlmmap_opt) + (bytes))
#define NLMMAP_MAPPED _IOWR(NLMMAP_MAGIC, 0x16, struct nlmmap_mapped)
#define NLMMAP_STATE _IOR(NLMMAP_MAGIC, 0x17, struct nlmmap_state)
#define NLMMAP_KICK_AS _IOWR(NLMMAP_MAGIC, 0x18, struct nlmmap_kick_as)

/*
 * The library (-lnlmmap): from a path to mapped rings in four calls, the same on either node. Each gives -1 with errno
 * when it fails.
 */

/* Where the rings are: NULL and 0 for one that is not set. Unmap with munmap(rx ? rx : tx, rx_len + tx_len). */
struct nlmmap_map {
	void *rx;
	void *tx;
	size_t rx_len;
	size_t tx_len;
};

/* Opens a node, NULL for /dev/nlmmap. ENOTTY: something else; EPROTO: another version. */
int nlmmap_open(const char *path);
/* Makes the netlink socket and binds it to a free port id and to groups (a mask of 1 to 32). */
int nlmmap_socket(int fd, int type, int protocol, __u32 groups);
/* Sets the rings; NULL for none. */
int nlmmap_rings(int fd, const struct nl_mmap_req *rx, const struct nl_mmap_req *tx);
/* Maps them. */
int nlmmap_map(int fd, struct nlmmap_map *map);

/*
 * Rings without the ring protocol (-lnlmmap; nlmmap(3)), in this process or over a device node. Functions that give int
 * give -1 with errno when they fail, and nlmmap_ring_error() says why in words. A ring is used by one thread at a time; a
 * lent message may be read and released by any.
 *
 *	struct nlmmap_options options = { .size = sizeof options, .family = NETLINK_NETFILTER };
 *	struct nlmmap_ring *ring = nlmmap_ring_new(&options);
 *	struct nlmmap_lent lent;
 *	while (nlmmap_ring_recv(ring, &lent, -1) == 1) {
 *		judge(ring, lent.data, lent.len);
 *		nlmmap_ring_release(&lent);
 *	}
 */
struct nlmmap_ring;

/* Everything that is 0 is the library's choice. */
struct nlmmap_options {
	size_t size;           /* sizeof(struct nlmmap_options) */
	__u32 family;          /* NETLINK_* */
	__u32 flags;           /* NLMMAP_USE_*, NLMMAP_CREDENTIALS, NLMMAP_NO_CREDENTIALS */
	struct nl_mmap_req rx; /* without blocks: only nm_frame_size and nm_frame_nr */
	struct nl_mmap_req tx;
	__u32 portid;
	__u32 group_nr;
	const __u32 *groups;   /* numbers, not a mask */
	size_t receive_buffer; /* bytes, as SO_RCVBUF */
	int socket;            /* with NLMMAP_USE_SOCKET: a netlink socket, which is duplicated */
	int net;               /* with NLMMAP_USE_NAMESPACE: a network namespace */
	const char *node;      /* the path of a device node */
};
#define NLMMAP_USE_SOCKET 1
#define NLMMAP_USE_NAMESPACE 2
#define NLMMAP_CREDENTIALS 4    /* they come with what processes send, also in the families of the kernel's subsystems */
#define NLMMAP_NO_CREDENTIALS 8 /* they never do */

/* A message, and what is known of it. */
struct nlmmap_lent {
	const void *data;
	size_t len;
	__u32 portid; /* the sender's, 0 for the kernel; with NLMMAP_HAS_PORTID */
	__u32 group;  /* the multicast group, 0 for none */
	__u32 pid;    /* the sender's credentials; with NLMMAP_HAS_CREDENTIALS */
	__u32 uid;
	__u32 gid;
	__u32 flags;
	const struct nlmmap_ring *ring; /* the library's, like what follows: leave it as it is, and make no copy */
	__u64 held[8];
};
#define NLMMAP_FROM_KERNEL 1
#define NLMMAP_HAS_PORTID 2
#define NLMMAP_HAS_CREDENTIALS 4

/* NULL with errno when it cannot be. */
struct nlmmap_ring *nlmmap_ring_new(const struct nlmmap_options *options);
/* Ends it. EBUSY, and it stays, while a message is lent. */
int nlmmap_ring_free(struct nlmmap_ring *ring);
/* Lends the next message: 1, or 0 when none came within millis (-1: for ever; 0: at once). Sends what is filled before it
 * asks the kernel. ENOBUFS: messages were lost. EMSGSIZE: one was cut. EBUSY: all frames are lent. EINTR. ENOTCONN: the
 * daemon has gone. After each the next call goes on. */
int nlmmap_ring_recv(const struct nlmmap_ring *ring, struct nlmmap_lent *lent, int millis);
/* Gives it back, in any order. Once is enough. */
void nlmmap_ring_release(struct nlmmap_lent *lent);
/* Fills a frame with a message for the kernel; it is sent by the next kick, or by a receiving call that asks the kernel. */
int nlmmap_ring_send(const struct nlmmap_ring *ring, const void *message, size_t len);
/* Sends what is filled, and then this, to a process or to groups; NULL is the kernel. */
int nlmmap_ring_send_to(const struct nlmmap_ring *ring, const void *message, size_t len, const struct sockaddr_nl *to);
/* Sends what is filled: how many bytes, or -1. */
long nlmmap_ring_kick(const struct nlmmap_ring *ring);
int nlmmap_ring_join(const struct nlmmap_ring *ring, __u32 group);
int nlmmap_ring_leave(const struct nlmmap_ring *ring, __u32 group);
int nlmmap_ring_portid(const struct nlmmap_ring *ring, __u32 *portid);
/* For poll() and epoll: once it is readable, receive with millis 0 until that gives 0, then wait again. */
int nlmmap_ring_fd(const struct nlmmap_ring *ring);
/* Why the last call of this thread that failed did. Never NULL. */
const char *nlmmap_ring_error(void);

#ifdef __cplusplus
}
#endif
#endif
