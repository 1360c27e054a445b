/* Calls that were cancellation points still are (argv[1]: poll, recv, select, epoll_wait, recvmsg,
 * ppoll, read): a thread blocked in one is cancelled, its clean-up runs, and the socket goes on: for waits, for a client that
 * only looks at memory, for one that frees its ring. */
#include "msg.h"
#include "waiter.h"
#include <pthread.h>

static struct sock s;
static const char *how;
static volatile int cleaned, inside;

static void cleanup(void *arg UNUSED_ARG)
{
	cleaned = 1;
}

static void *blocked(void *arg UNUSED_ARG)
{
	char buf[64];
	struct iovec v = { buf, sizeof buf };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	pthread_cleanup_push(cleanup, NULL);
	inside = 1;
	if (!strcmp(how, "recv"))
		recv(s.fd, buf, sizeof buf, 0);
	else if (!strcmp(how, "read"))
		CHECK_CALL(read(s.fd, buf, sizeof buf));
	else if (!strcmp(how, "recvmsg"))
		recvmsg(s.fd, &m, 0);
	else
		find_waiter(how)->wait(s.fd, -1);
	FAIL("%s returned instead of being cancelled", how);
	pthread_cleanup_pop(0);
	return NULL;
}

int main(int argc, char **argv)
{
	int i, sender = plain_open(NETLINK_USERSOCK);
	struct nl_mmap_req none = NO_RING;
	long end;
	char buf[4096];
	how = argc > 1 ? argv[1] : "poll";
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), NO_RING);
	for (i = 0; i < 20; i++) {
		pthread_t t;
		void *r;
		size_t len = i % 2 ? 100 : 2000;
		cleaned = inside = 0;
		CHECK(pthread_create(&t, NULL, blocked, NULL) == 0, "pthread_create");
		while (!inside)
			msleep(1);
		msleep(i % 4 * 10);
		CHECK(pthread_cancel(t) == 0, "pthread_cancel");
		CHECK(pthread_join(t, &r) == 0 && r == PTHREAD_CANCELED, "the thread was not cancelled in %s", how);
		CHECK(cleaned, "the clean-up handler did not run");
		/* nothing is held by the thread that is gone */
		CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
	/* frames come to a client that makes no calls: nobody is thought to be in a wait */
	CHECK_CALL(plain_send(sender, msg_user(buf, 2000, 100), 2000, s.port, 0));
	for (end = now_ms() + 5000; !ready(&s.rx);)
		CHECK(now_ms() < end, "no frame comes to a client that only looks at memory");
	check_user(buf, rx_next(&s, buf, sizeof buf, NULL), 100);
	munmap(s.map, s.len);
	CHECK_CALL(setsockopt(s.fd, SOL_NETLINK, NETLINK_RX_RING, &none, sizeof none));
	ok();
	return 0;
}
