/* A ring client that waits or does nothing must cost nothing: no thread of the process may wake
 * up by itself. argv[1]: poll, epoll_wait, raw-epoll, sleep, holding (sleeps with frames it has not
 * released); then two seconds are counted in /proc. */
#include "msg.h"
#include "waiter.h"
#include <dirent.h>
#include <pthread.h>

static struct sock s;
static const char *how;

static void *waiting(void *arg UNUSED_ARG)
{
	if (!strcmp(how, "sleep") || !strcmp(how, "holding"))
		for (;;)
			pause();
	find_waiter(how)->wait(s.fd, -1);
	return NULL;
}

/* Context switches of every thread but the one that counts, both kinds. */
static unsigned long switches(unsigned *threads)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	unsigned long sum = 0, v;
	*threads = 0;
	CHECK(d, "/proc/self/task: %s", strerror(errno));
	while ((e = readdir(d))) {
		char path[300], line[200];
		FILE *f;
		if (atoi(e->d_name) == 0 || atoi(e->d_name) == getpid())
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
		f = fopen(path, "r");
		CHECK(f, "%s: %s", path, strerror(errno));
		++*threads;
		while (fgets(line, sizeof line, f))
			if (sscanf(line, "voluntary_ctxt_switches: %lu", &v) == 1 ||
			    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &v) == 1)
				sum += v;
		fclose(f);
	}
	closedir(d);
	return sum;
}

int main(int argc, char **argv)
{
	pthread_t t;
	unsigned long before, after;
	unsigned threads;
	char buf[256];
	int i, fd = plain_open(NETLINK_USERSOCK);

	how = argc > 1 ? argv[1] : "poll";
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 2048), NO_RING);
	/* Traffic first, so that everything which could keep running has been started. */
	for (i = 0; i < 10; i++) {
		CHECK_CALL(plain_send(fd, msg_user(buf, 100, i), 100, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, NULL, 2000), i);
	}
	for (i = 0; i < 5 && !strcmp(how, "holding"); i++) {
		struct pollfd p = { s.fd, POLLIN, 0 };
		CHECK_CALL(plain_send(fd, msg_user(buf, 100, i), 100, s.port, 0));
		CHECK(poll(&p, 1, 2000) == 1, "message %d did not come", i);
	}
	CHECK(pthread_create(&t, NULL, waiting, NULL) == 0, "pthread_create");
	msleep(700);
	before = switches(&threads);
	msleep(2000);
	after = switches(&threads);
	CHECK(threads >= 1, "the waiting thread is gone");
	CHECK(after - before <= 2, "%lu wake-ups of %u idle threads in two seconds", after - before, threads);
	ok();
	_exit(0);
}
