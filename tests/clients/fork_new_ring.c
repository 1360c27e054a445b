/* Threads of a program open and close ring sockets while it forks; each child opens a ring socket of its own, at a number that
 * one of the threads may have had at that moment. Each must get rings, and an answer by them. argv[1]: how the child is made
 * (fork, raw: clone by number, without the C library's handlers). */
#include "ring.h"
#include <pthread.h>
#include <sys/syscall.h>

enum { CHILDREN = 400, WORKERS = 3 };

static volatile int stop;
static const struct nl_mmap_req geometry = GEOM(65536, 8, 8192);

/* 0, or the error of what went wrong. */
static int use_a_ring_socket(void)
{
	struct { struct nlmsghdr h; struct rtgenmsg g; } request = {
		{ NLMSG_LENGTH(sizeof(struct rtgenmsg)), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { 0 } };
	int error = 0, fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	volatile unsigned *map;

	if (setsockopt(fd, SOL_NETLINK, NETLINK_RX_RING, &geometry, sizeof geometry))
		return errno;
	map = mmap(NULL, req_bytes(geometry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return errno;
	if (send(fd, &request, request.h.nlmsg_len, 0) < 0)
		error = errno;
	/* An ordinary message there is, here or in the queue: strict mode gives replies by COPY. */
	else if (map[0] != NL_MMAP_STATUS_VALID && map[0] != NL_MMAP_STATUS_COPY)
		error = EPROTO;
	if (close(fd))
		error = errno;
	munmap((void *)map, req_bytes(geometry));
	return error;
}

static void *worker(void *arg UNUSED_ARG)
{
	while (!stop) {
		int error = use_a_ring_socket();
		CHECK(!error, "a thread of the parent: %s", strerror(error));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int raw = argc > 1 && !strcmp(argv[1], "raw"), children, refused = 0, first = 0, i;
	struct sock probe = ring_open(NETLINK_ROUTE, geometry, NO_RING);
	pthread_t threads[WORKERS];

	close(probe.fd);
	munmap(probe.map, probe.len);
	for (i = 0; i < WORKERS; i++)
		CHECK(!pthread_create(&threads[i], NULL, worker, NULL), "pthread_create");
	for (children = 0; children < CHILDREN; children++) {
		pid_t pid = raw ? syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
		int status;

		CHECK_CALL(pid);
		if (pid == 0)
			_exit(use_a_ring_socket());
		CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
		if (status && !refused++)
			first = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
	}
	stop = 1;
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	if (first < 0)
		FAIL("%d of %d children failed, the first died of signal %d", refused, children, -first);
	CHECK(!refused, "%d of %d children failed, the first with: %s", refused, children, strerror(first));
	ok();
	return 0;
}
