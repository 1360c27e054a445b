/* faults_further.c: what faults.c leaves out, by a client that bears a failure at any place (faults.h): many frames in one kick, rings that
 * run full, errors of the socket, limited receives, registrations from before the rings, descriptors that are passed, doubled and swept
 * away, children that are gone, handlers of signals. argv[1]: "supervised", if it is. */
#include "faults.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>

enum { BATCH = 6, MANY = 12, FLOOD = 400, MOST = 4096 };

static struct sock s, u;
static int from;
/* How often each numbered message has come. */
static unsigned char seen[MOST];

static void nothing(int nr UNUSED_ARG)
{
}

/* Takes whatever is there, by number; how many. */
static int take(struct sock *at)
{
	int n = 0;
	for (long end = now_ms() + MS;;) {
		struct nl_mmap_hdr *h = head(&at->rx);
		unsigned st = status_of(h), len = h->nm_len;
		const struct nlmsghdr *m = (void *)buf;
		if (st == NL_MMAP_STATUS_UNUSED) {
			struct pollfd p = { at->fd, POLLIN, 0 };
			int r = AGAIN("poll", poll(&p, 1, 20));
			if (r > 0 && p.revents & POLLERR)
				error_of(at->fd);
			else if (r == 0)
				return n;
			CHECK(now_ms() < end, "no end of messages within %d ms", MS);
			continue;
		}
		if (st == NL_MMAP_STATUS_VALID)
			memcpy(buf, payload(h), len);
		else
			CHECK(AGAIN("recv", recv(at->fd, buf, sizeof buf, MSG_DONTWAIT)) == (ssize_t)len, "COPY of %u bytes", len);
		set_status(h, NL_MMAP_STATUS_UNUSED);
		advance(&at->rx);
		if (!len)
			continue;
		CHECK(m->nlmsg_seq < MOST && ++seen[m->nlmsg_seq] == 1, "message %u comes again", m->nlmsg_seq);
		n++;
	}
}

/* Kicks messages `first` and on until all have come to `to`: those that did not are sent again, and none comes twice. */
static void kicked(struct sock *by, struct sock *to, uint32_t first, int n, unsigned len, int connected)
{
	for (int try = 0;; try++) {
		int put = 0, left, got;
		for (int i = 0; i < n; i++) {
			struct nlmsghdr *m = (void *)buf;
			if (seen[first + i])
				continue;
			memset(buf, 0, len);
			*m = (struct nlmsghdr){ len, to == by ? NLMSG_NOOP : 77, NLM_F_REQUEST | NLM_F_ACK, first + i, 0 };
			tx_put(by, buf, len);
			put++;
		}
		if (!put)
			return;
		CHECK(try < TRIES, "%d of %d messages have not come", put, n);
		for (left = put; left > 0;) {
			ssize_t sent = connected ? send(by->fd, NULL, 0, 0) : tx_kick_to(by, to == by ? 0 : to->port, 0);
			int before = left;
			if (sent < 0) {
				failures++;
				fprintf(stderr, "kick: %s\n", strerror(errno));
			}
			for (left = 0; left < put; left++)
				if (status_of(frame_at(&by->tx, (by->tx.pos + by->tx.frame_nr - 1 - left) % by->tx.frame_nr)) != NL_MMAP_STATUS_VALID)
					break;
			CHECK(sent < 0 || before - left >= sent / (int)len, "%zd bytes are %d frames", sent, before - left);
			if (left == before && ++try == TRIES)
				_exit(EXIT_GIVEN_UP);
		}
		got = take(to);
		fprintf(stderr, "of %d messages %d have come\n", put, got);
	}
}

/* More than the ring has room for. In strict mode what it has no frame for is lost, and told; else all of it comes. */
static void full(uint32_t first, unsigned len)
{
	struct nlmsghdr *m = (void *)buf;
	int n = 0;
	memset(buf, 0, len);
	for (int i = 0; i < MANY; i++) {
		struct pollfd p = { u.fd, POLLIN, 0 };
		*m = (struct nlmsghdr){ len, 77, 0, first + i, 0 };
		if (sendto(from, buf, len, MSG_DONTWAIT, (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = u.port },
			   sizeof(struct sockaddr_nl)) < 0) {
			failures++;
			CHECK(errno == EAGAIN || !strict(), "the sender: %s", strerror(errno));
			seen[first + i] = 1;
			n++;
		}
		AGAIN("poll", poll(&p, 1, 0));
		if (p.revents & POLLERR)
			error_of(u.fd);
	}
	n += take(&u);
	CHECK(strict() || n == MANY, "%d of %d messages have come", n, MANY);
	memset(seen, 0, sizeof seen);
}

static void flood(int wait_at)
{
	struct nlmsghdr *m = (void *)buf;
	struct pollfd p = { u.fd, POLLIN, 0 };
	for (int i = 0; i < FLOOD; i++) {
		if (i == wait_at)
			AGAIN("poll", poll(&p, 1, 0));
		memset(buf, 0, 200);
		*m = (struct nlmsghdr){ 200, 77, 0, i, 0 };
		if (multicast(from, buf, 200, 1) < 0)
			failures++;
	}
}

/* A group is sent more than the socket holds while nobody looks, and while somebody waits for an error only. Then it goes on. */
static void overrun(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = u.port, .nl_groups = 1 };
	struct pollfd p = { u.fd, POLLIN, 0 };
	pid_t pid;
	int room = 4096, on = 1, off = 0;
	AGAIN("bind", bind(u.fd, (struct sockaddr *)&a, sizeof a));
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room));
	/* The ring is full before the socket is. */
	flood(8);
	AGAIN("poll", poll(&p, 1, 0));
	if (p.revents & POLLERR)
		error_of(u.fd);
	CHECK(strict() || recv(u.fd, buf, sizeof buf, MSG_DONTWAIT) < 0, "a message beside a full ring");
	take(&u);
	memset(seen, 0, sizeof seen);
	pid = AGAIN("fork", fork());
	if (pid == 0) {
		msleep(100);
		flood(FLOOD);
		_exit(0);
	}
	p.events = 0;
	AGAIN("poll", poll(&p, 1, 600));
	if (p.revents & POLLERR)
		error_of(u.fd);
	AGAIN("wait4", waitpid(pid, NULL, 0));
	AGAIN("setsockopt", setsockopt(u.fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on));
	take(&u);
	memset(seen, 0, sizeof seen);
	AGAIN("setsockopt", setsockopt(u.fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &off, sizeof off));
	AGAIN("setsockopt", setsockopt(u.fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &on, sizeof on));
	room = 212992;
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room));
}

/* A kick with ancillary data. */
static void with_credentials(struct sock *by)
{
	char room[CMSG_SPACE(sizeof(struct ucred))] = { 0 };
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = u.port };
	struct iovec none = { NULL, 0 };
	struct msghdr m = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &none, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct ucred me = { getpid(), getuid(), getgid() };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct nlmsghdr n = { sizeof n, 77, 0, 60, 0 };
	*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = CMSG_LEN(sizeof me) };
	memcpy(CMSG_DATA(c), &me, sizeof me);
	for (int try = 0; !seen[60]; try++) {
		if (try == TRIES)
			_exit(EXIT_GIVEN_UP);
		tx_put(by, &n, sizeof n);
		for (int kick = 0; sendmsg(by->fd, &m, 0) < 0; kick++) {
			failures++;
			if (status_of(frame_at(&by->tx, (by->tx.pos + by->tx.frame_nr - 1) % by->tx.frame_nr)) != NL_MMAP_STATUS_VALID)
				break;
			if (kick == TRIES)
				_exit(EXIT_GIVEN_UP);
		}
		take(&u);
	}
}

/* A receive without end but for its own limit. */
static void limited(void)
{
	struct timeval limit = { 0, 40000 }, none = { 0, 0 };
	ssize_t n;
	/* Meanwhile a message comes that fits a frame, and ends no receive; strict mode has it by COPY. */
	pid_t pid = strict() ? 0 : AGAIN("fork", fork());
	if (pid == 0 && !strict()) {
		struct nlmsghdr m = { sizeof m, 77, 0, 1, 0 };
		msleep(15);
		AGAIN("the sender", plain_send(from, &m, sizeof m, u.port, 0));
		_exit(0);
	}
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	for (int try = 0; (n = recv(u.fd, buf, sizeof buf, 0)) < 0 && errno != EAGAIN; try++) {
		failures++;
		if (try == TRIES)
			_exit(EXIT_GIVEN_UP);
	}
	CHECK(n < 0, "%zd bytes out of nothing", n);
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none));
	if (pid == 0)
		return;
	AGAIN("wait4", waitpid(pid, NULL, 0));
	take(&u);
	CHECK(seen[1] == 1, "the message beside the receive has come %u times", seen[1]);
	memset(seen, 0, sizeof seen);
}

/* The large message, by COPY: it fits no frame. */
static char large[40000];

static void take_large(void)
{
	ssize_t n = AGAIN("recv", recv(u.fd, buf, sizeof buf, 0));
	CHECK(n == sizeof large, "%zd bytes of %zu", n, sizeof large);
	for (struct pollfd p = { u.fd, POLLIN, 0 }; status_of(head(&u.rx)) != NL_MMAP_STATUS_COPY;)
		AGAIN("poll", poll(&p, 1, 10));
	set_status(head(&u.rx), NL_MMAP_STATUS_UNUSED);
	advance(&u.rx);
}

/* A receive without end, above which a handler runs before there is a message. */
static void interrupted(void)
{
	pid_t parent = getpid(), pid = AGAIN("fork", fork());
	if (pid == 0) {
		msleep(15);
		kill(parent, SIGUSR1);
		msleep(15);
		AGAIN("the sender", plain_send(from, large, sizeof large, u.port, 0));
		_exit(0);
	}
	take_large();
	AGAIN("wait4", waitpid(pid, NULL, 0));
}

/* A descriptor goes through a local socket and comes back. */
static int passed(int fd)
{
	int pair[2], got = -1;
	char byte = 'x', room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	AGAIN("socketpair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd) };
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	AGAIN("sendmsg", sendmsg(pair[0], &m, 0));
	m.msg_controllen = sizeof room;
	AGAIN("recvmsg", recvmsg(pair[1], &m, 0));
	c = CMSG_FIRSTHDR(&m);
	CHECK(c && c->cmsg_type == SCM_RIGHTS, "no descriptor has come");
	memcpy(&got, CMSG_DATA(c), sizeof got);
	AGAIN("close", close(pair[0]));
	AGAIN("close", close(pair[1]));
	return got;
}

/* The client takes the numbers of descriptors that it does not know of. */
static void sweep(int fd)
{
	DIR *d = (DIR *)CHECKED("opendir", opendir("/proc/self/fd"));
	struct dirent *entry;
	int known[] = { ep, from, s.fd, u.fd, dirfd(d) }, taken[64], n = 0;
	while ((entry = readdir(d)) && n < 64) {
		int at = atoi(entry->d_name), is_known = at < 3;
		for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
			is_known |= at == known[i];
		if (!is_known)
			taken[n++] = at;
	}
	closedir(d);
	for (int i = 0; i < n; i++)
		AGAIN("dup2", dup2(fd, taken[i]));
	kicked(&s, &s, 310, 2, 20, 0);
	for (int i = 0; i < n; i++)
		close(taken[i]);
	closefrom(1200);
}

/* A child with the rings mapped is gone without a word. */
static void child_that_dies(void)
{
	int status;
	pid_t pid = AGAIN("fork", fork());
	if (pid == 0) {
		struct pollfd p = { u.fd, POLLIN, 0 };
		poll(&p, 1, 0);
		kill(getpid(), SIGKILL);
	}
	AGAIN("wait4", waitpid(pid, &status, 0));
}

int main(int argc, char **argv)
{
	struct sigaction catch = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	struct epoll_event e = { .events = EPOLLIN };
	struct ifreq lo = { .ifr_name = "lo" };
	struct sock t;
	pid_t pid;
	int other, ready_pipe[2];

	fprintf(stderr, "begin\n");
	AGAIN("sigaction", sigaction(SIGUSR1, &catch, NULL));
	from = netlink(NETLINK_USERSOCK);
	AGAIN("bind", bind(from, (struct sockaddr *)&any, sizeof any));

	/* Registered before there are rings. */
	ep = AGAIN("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
	other = netlink(NETLINK_USERSOCK);
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, other, &e));
	AGAIN("setsockopt", setsockopt(other, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	u = rings_on(other, GEOM(16384, 1, 2048), 0);
	other = netlink(NETLINK_USERSOCK);
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, other, 0) == MAP_FAILED, "a mapping of a socket without rings");
	AGAIN("close", close(other));
	events(&u, from, by_epoll);
	/* Once more by a duplicate, which goes. */
	other = AGAIN("dup", dup(u.fd));
	AGAIN("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, other, &e));
	events(&u, from, by_epoll);
	AGAIN("close", close(other));
	events(&u, from, by_epoll);
	AGAIN("setsockopt", setsockopt(u.fd, SOL_SOCKET, SO_PASSCRED, &(int){ 0 }, sizeof(int)));

	/* A group beyond 32, before the rings and after. */
	other = netlink(NETLINK_ROUTE);
	AGAIN("setsockopt", setsockopt(other, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &(int){ 33 }, sizeof(int)));
	s = rings_on(other, GEOM(65536, 16, 16384), 0);
	AGAIN("setsockopt", setsockopt(s.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &(int){ 34 }, sizeof(int)));
	kicked(&s, &s, 1, 1, 20, 0);
	AGAIN("close", close(s.fd));
	AGAIN("munmap", munmap(s.map, s.len));

	/* Many frames in a kick: to the kernel, to another socket, to a peer by one without an address. */
	s = open_rings(NETLINK_ROUTE);
	AGAIN("ioctl", ioctl(s.fd, SIOCGIFINDEX, &lo));
	kicked(&s, &s, 10, BATCH, 20, 0);
	t = rings_on(netlink(NETLINK_USERSOCK), GEOM(16384, 1, 8192), 1);
	AGAIN("kick", tx_kick(&t)); /* of nothing */
	kicked(&t, &u, 30, 1, 100, 0);
	AGAIN("connect", connect(t.fd, (struct sockaddr *)&(struct sockaddr_nl){ .nl_family = AF_NETLINK, .nl_pid = u.port }, sizeof any));
	kicked(&t, &u, 40, 2, 100, 1);
	CHECK(send(t.fd, NULL, 0, MSG_OOB) < 0, "a kick out of band");
	with_credentials(&t);
	/* A frame larger than the socket's room for sends. */
	AGAIN("setsockopt", setsockopt(t.fd, SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)));
	kicked(&t, &u, 50, 1, 6000, 0);
	AGAIN("munmap", munmap(t.map, t.len));
	AGAIN("close", close(t.fd));
	memset(seen, 0, sizeof seen);

	full(100, 100);
	full(200, 4000);
	limited();
	*(struct nlmsghdr *)large = (struct nlmsghdr){ sizeof large, 77, 0, 1, 0 };
	AGAIN("the sender", plain_send(from, large, sizeof large, u.port, 0));
	take_large();
	interrupted();
	overrun();
	other = passed(u.fd);
	/* Under a supervisor it has its rings at high numbers only. */
	if (argc > 1 && !strcmp(argv[1], "supervised")) {
		AGAIN("close", close(other));
		other = AGAIN("fcntl", fcntl(u.fd, F_DUPFD_CLOEXEC, 768));
	}
	AGAIN("close", close(u.fd));
	u.fd = other;
	kicked(&u, &u, 300, 0, 20, 0);
	child_that_dies();
	sweep(s.fd);
	kicked(&s, &s, 310, 2, 20, 0);

	/* Busy while a child has them mapped; set again when it is gone. */
	AGAIN("pipe", pipe(ready_pipe));
	pid = AGAIN("fork", fork());
	if (pid == 0) {
		struct pollfd p = { u.fd, POLLIN, 0 };
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		AGAIN("poll", poll(&p, 1, 0));
		AGAIN("write", write(ready_pipe[1], "x", 1));
		pause();
	}
	AGAIN("read", read(ready_pipe[0], buf, 1));
	AGAIN("close", close(ready_pipe[0]));
	AGAIN("close", close(ready_pipe[1]));
	AGAIN("munmap", munmap(u.map, u.len));
	CHECK(setsockopt(u.fd, SOL_NETLINK, NETLINK_RX_RING, &(struct nl_mmap_req){ 0 }, sizeof(struct nl_mmap_req)) < 0,
	      "rings go that a child has mapped");
	AGAIN("close", close(s.fd));
	AGAIN("munmap", munmap(s.map, s.len));
	kill(pid, SIGKILL);
	AGAIN("wait4", waitpid(pid, NULL, 0));
	AGAIN("rings", setsockopt(u.fd, SOL_NETLINK, NETLINK_RX_RING, &(struct nl_mmap_req){ 0 }, sizeof(struct nl_mmap_req)));
	AGAIN("close", close(ep));
	AGAIN("close", close(u.fd));
	AGAIN("close", close(from));
	return report();
}
