/* device_unread NODE OPENS MIB: opens so many sockets, each with a ring of 512 small frames, and sends each so many MiB of messages that no frame
 * holds, or as much as it takes. Receives nothing. Says "full", and how many messages the fullest has taken; ends with its input. */
#include "device.h"

int main(int argc, char **argv)
{
	static char text[6000];
	struct nlmsghdr *n = (void *)text;
	int opens, messages, most = 0, from = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_USERSOCK);
	CHECK(argc == 4, "usage: device_unread NODE OPENS MIB");
	opens = atoi(argv[2]);
	messages = (size_t)atoi(argv[3]) * (1 << 20) / sizeof text;
	CALL(from);
	*n = (struct nlmsghdr){ .nlmsg_len = sizeof text, .nlmsg_type = 77 };
	for (int i = 0; i < opens; i++) {
		struct sockaddr_nl to = { .nl_family = AF_NETLINK };
		struct device *d = calloc(1, sizeof *d);
		int sent = 0, full = 0;
		CHECK(d, "out of memory");
		device_open(d, argv[1], NETLINK_USERSOCK);
		device_rings(d, 16384, 16, 512);
		CALL(ioctl(d->fd, NLMMAP_GETSOCKNAME, &to));
		/* A full queue may be emptied a little later. */
		while (sent < messages && full < 50) {
			if (sendto(from, text, sizeof text, 0, (void *)&to, sizeof to) > 0) {
				sent++;
				full = 0;
			} else {
				CHECK(errno == EAGAIN || errno == ENOBUFS, "sendto: %s", strerror(errno));
				full++;
				usleep(1000);
			}
		}
		most = sent > most ? sent : most;
	}
	printf("full %d\n", most);
	fflush(stdout);
	while (read(0, text, sizeof text) > 0)
		;
	return 0;
}
