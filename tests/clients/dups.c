/* Every way a descriptor gets a second number, and every way numbers are closed (argv[1]): the ring
 * follows the socket, not the number. */
#include "msg.h"
#include <sys/resource.h>
#include <sys/syscall.h>

static struct sock s;
static int sender;
static char buf[4096];
static uint32_t seq;

/* VALID and COPY messages in, a kick out, all through `fd`. */
static void works(int fd, const char *what)
{
	struct sock via = s;
	int i;
	via.fd = fd;
	for (i = 0; i < 3; i++) {
		size_t len = i == 1 ? 2000 : 100;
		CHECK_CALL(plain_send(sender, msg_user(buf, len, ++seq), len, s.port, 0));
		check_user(buf, rx_take(&via, buf, sizeof buf, NULL, 2000), seq);
	}
	tx_put(&via, msg_user(buf, 90, ++seq), 90);
	CHECK(tx_kick_to(&via, s.port, 0) == 90, "kick through %s: %s", what, strerror(errno));
	check_user(buf, rx_take(&via, buf, sizeof buf, NULL, 2000), seq);
	s.rx.pos = via.rx.pos;
	s.tx.pos = via.tx.pos;
}

static void is_closed(int fd, const char *what)
{
	struct pollfd p = { fd, POLLIN, 0 };
	CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF, "%s did not close %d", what, fd);
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLNVAL, "%s: poll of a closed fd says %x", what, p.revents);
	CHECK(recv(fd, buf, 1, MSG_DONTWAIT) == -1 && errno == EBADF, "%s: recv of a closed fd: %s", what,
	      strerror(errno));
}

/* The new number works, then the old one is closed and the new one works alone. */
static void passes_on(int to, const char *what)
{
	int old = s.fd;
	CHECK(to >= 0, "%s: %s", what, strerror(errno));
	works(to, what);
	works(old, "the first number");
	CHECK_CALL(close(old));
	is_closed(old, "close");
	works(to, what);
	s.fd = to;
}

/* Numbers closed and used again for something else are nothing of ours. */
static void reuse(void)
{
	int old = s.fd, i, p[2], kept = dup(s.fd);
	CHECK_CALL(kept);
	CHECK_CALL(close(old));
	CHECK_CALL(pipe(p));
	CHECK(p[0] == old || p[1] == old, "the lowest number was not given again");
	CHECK(write(p[1], "pipe", 4) == 4 && read(p[0], buf, 4) == 4, "a pipe at the old number");
	CHECK(mmap(NULL, s.len, PROT_READ, MAP_SHARED, old, 0) == MAP_FAILED, "mmap of a pipe");
	close(p[0]);
	close(p[1]);
	/* closed where no library call sees it, reused by another netlink socket */
	for (i = 0; i < 3; i++) {
		int plain, again = fcntl(kept, F_DUPFD, 50);
		CHECK_CALL(again);
		CHECK(syscall(SYS_close, again) == 0, "raw close");
		plain = plain_open(NETLINK_USERSOCK);
		CHECK(dup2(plain, again) == again, "dup2");
		CHECK_CALL(plain_send(sender, msg_user(buf, 100, 1), 100, port_of(plain), 0));
		CHECK(recv(again, buf, sizeof buf, 0) == 100, "recv of a plain socket at an old number: %s",
		      strerror(errno));
		CHECK(sendto(again, NULL, 0, 0, NULL, 0) != 90, "a kick of a plain socket");
		close(again);
		plain = open("/dev/null", O_RDWR);
		CHECK(read(plain, buf, 1) == 0, "/dev/null");
		close(plain);
	}
	s.fd = kept;
	works(kept, "the number that was kept");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "dup";
	int i;

	sender = plain_open(NETLINK_USERSOCK);
	s = ring_open(NETLINK_USERSOCK, GEOM(4096, 4, 1024), GEOM(4096, 1, 1024));
	works(s.fd, "the first number");
	for (i = 0; i < 3; i++) {
		if (!strcmp(mode, "dup"))
			passes_on(dup(s.fd), mode);
		else if (!strcmp(mode, "dup2"))
			passes_on(dup2(s.fd, 200 + i), mode);
		else if (!strcmp(mode, "dup2-over"))
			passes_on(dup2(s.fd, plain_open(NETLINK_USERSOCK)), mode);
		else if (!strcmp(mode, "dup2-self")) {
			CHECK(dup2(s.fd, s.fd) == s.fd, "dup2 onto itself");
			works(s.fd, mode);
		} else if (!strcmp(mode, "dup3"))
			passes_on(dup3(s.fd, 300 + i, O_CLOEXEC), mode);
		else if (!strcmp(mode, "F_DUPFD"))
			passes_on(fcntl(s.fd, F_DUPFD, 400), mode);
		else if (!strcmp(mode, "F_DUPFD_CLOEXEC"))
			passes_on(fcntl(s.fd, F_DUPFD_CLOEXEC, 500), mode);
		else if (!strcmp(mode, "high")) {
			struct rlimit r;
			CHECK_CALL(getrlimit(RLIMIT_NOFILE, &r));
			r.rlim_cur = r.rlim_max;
			CHECK_CALL(setrlimit(RLIMIT_NOFILE, &r));
			if (r.rlim_cur > 65536)
				r.rlim_cur = 65536;
			passes_on(dup2(s.fd, i == 0 ? 1024 : i == 1 ? r.rlim_cur / 2 : r.rlim_cur - 1), mode);
		} else if (!strcmp(mode, "close_range")) {
			int to = dup2(s.fd, 600 + i);
			CHECK_CALL(to);
			CHECK(syscall(SYS_close_range, s.fd, 300, 0) == 0 || errno == ENOSYS, "raw close_range");
			sender = plain_open(NETLINK_USERSOCK);
			s.fd = to;
			works(to, mode);
#if GLIBC_AT_LEAST(2, 34)
			to = dup2(s.fd, 20 + i);
			CHECK_CALL(close_range(100, 700, 0));
			is_closed(s.fd, mode);
			s.fd = to;
			works(to, mode);
			CHECK(close_range(3, 100, CLOSE_RANGE_CLOEXEC) == 0 || errno == EINVAL, "CLOSE_RANGE_CLOEXEC");
			works(to, "CLOSE_RANGE_CLOEXEC");
#endif
		} else if (!strcmp(mode, "closefrom")) {
#if GLIBC_AT_LEAST(2, 34)
			int to = dup2(s.fd, 10);
			CHECK_CALL(to);
			CHECK(dup2(sender, 9) == 9, "dup2");
			sender = 9;
			dup2(s.fd, 30);
			closefrom(11);
			is_closed(30, mode);
			s.fd = to;
			works(to, mode);
#else
			LACKING("closefrom in this C library");
#endif
		} else if (!strcmp(mode, "close-loop")) {
			int fd, to = dup2(s.fd, 70);
			sender = dup2(sender, 71);
			for (fd = 3; fd < 1024; fd++)
				if (fd != to && fd != sender)
					close(fd);
			s.fd = to;
			works(to, mode);
		} else if (!strcmp(mode, "reuse"))
			reuse();
		else
			FAIL("unknown mode %s", mode);
	}
	/* the last close: all numbers are gone, the mapping lives on */
	CHECK_CALL(close(s.fd));
	is_closed(s.fd, "the last close");
	CHECK(status_of(head(&s.rx)) == NL_MMAP_STATUS_UNUSED, "the mapping died with the descriptor");
	ok();
	return 0;
}
