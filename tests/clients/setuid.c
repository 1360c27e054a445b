/* A daemon that drops its privileges after the rings are mapped: the change reaches every thread of
 * the process, whoever started it, and the rings go on. */
#include "msg.h"
#include <dirent.h>

static void every_thread_has(unsigned uid, unsigned gid)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	int threads = 0;
	CHECK(d, "/proc/self/task: %s", strerror(errno));
	while ((e = readdir(d))) {
		char path[300], line[200];
		unsigned id[4];
		FILE *f;
		if (atoi(e->d_name) == 0)
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
		f = fopen(path, "r");
		CHECK(f, "%s: %s", path, strerror(errno));
		threads++;
		while (fgets(line, sizeof line, f)) {
			if (sscanf(line, "Uid: %u %u %u %u", id, id + 1, id + 2, id + 3) == 4)
				CHECK(id[0] == uid && id[1] == uid && id[2] == uid && id[3] == uid,
				      "thread %s still runs as uid %u/%u", e->d_name, id[0], id[1]);
			if (sscanf(line, "Gid: %u %u %u %u", id, id + 1, id + 2, id + 3) == 4)
				CHECK(id[0] == gid && id[1] == gid, "thread %s still has gid %u", e->d_name, id[0]);
		}
		fclose(f);
	}
	closedir(d);
	CHECK(threads >= 1, "no threads");
}

int main(void)
{
	struct sock s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
	int i, sender = plain_open(NETLINK_USERSOCK);
	char buf[4096];
	long end;

	CHECK_CALL(setgid(1001));
	CHECK_CALL(setuid(1000));
	every_thread_has(1000, 1001);
	for (i = 0; i < 50; i++) {
		size_t len = i % 2 ? 100 : 2000;
		struct nl_mmap_hdr meta;
		CHECK_CALL(plain_send(sender, msg_user(buf, len, i), len, s.port, 0));
		check_user(buf, rx_take(&s, buf, sizeof buf, &meta, 2000), i);
		CHECK(meta.nm_uid == 1000 && meta.nm_gid == 1001, "a message of uid %u gid %u", meta.nm_uid, meta.nm_gid);
		tx_put(&s, msg_user(buf, 64, i), 64);
		CHECK(tx_kick_to(&s, s.port, 0) == 64, "kick: %s", strerror(errno));
		rx_take(&s, buf, sizeof buf, NULL, 2000);
	}
	/* and for a client that only reads memory */
	CHECK_CALL(plain_send(sender, msg_user(buf, 100, 7), 100, s.port, 0));
	for (end = now_ms() + 5000; !ready(&s.rx);)
		CHECK(now_ms() < end, "nobody serves the ring after setuid");
	rx_take(&s, buf, sizeof buf, NULL, 0);
	every_thread_has(1000, 1001);
	ok();
	return 0;
}
