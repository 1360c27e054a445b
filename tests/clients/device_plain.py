#!/usr/bin/env python3
"""A client without rings: open, ioctl, write, read. Usage: device_plain.py NODE"""

import fcntl
import os
import select
import socket
import struct
import sys
import threading


def number(direction, nr, size):
    return direction << 30 | size << 16 | 0xDA << 8 | nr


VERSION = number(2, 0x00, 16)
SOCKET = number(1, 0x01, 8)
BIND = number(1, 0x02, 12)
GETSOCKNAME = number(2, 0x04, 12)
ADD_MEMBERSHIP = number(1, 0x05, 4)
SETSOCKOPT = number(1, 0x07, 12)
GETSOCKOPT = number(3, 0x08, 12)
GET_ERROR = number(2, 0x0E, 4)
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11
RTM_GETLINK, RTM_NEWLINK, NLMSG_DONE, NLMSG_ERROR = 18, 16, 3, 2


def node(path, protocol=0, flags=0):
    fd = os.open(path, os.O_RDWR | flags)
    fcntl.ioctl(fd, SOCKET, struct.pack("II", socket.SOCK_RAW, protocol))
    fcntl.ioctl(fd, BIND, struct.pack("HHII", 16, 0, 0, 0))
    return fd


def dump_links(send, receive, seq):
    """Names and indices of all links."""
    send(struct.pack("IHHII", 32, RTM_GETLINK, 0x301, seq, 0) + bytes(16))
    found = []
    while True:
        part = receive()
        while part:
            length, kind, _, got, _ = struct.unpack_from("IHHII", part)
            assert got == seq, (got, seq)
            if kind == NLMSG_DONE:
                return found
            assert kind == RTM_NEWLINK, kind
            found.append(struct.unpack_from("i", part, 20)[0])
            part = part[(length + 3) & ~3 :]


def main(path):
    fd = node(path)
    abi, kind, features = struct.unpack("IIQ", fcntl.ioctl(fd, VERSION, bytes(16)))
    assert abi == 1 and kind in (1, 2) and features == kind | 4, (abi, kind, features)

    family, _, port, _ = struct.unpack("HHII", fcntl.ioctl(fd, GETSOCKNAME, bytes(12)))
    assert family == 16 and port != 0

    fcntl.ioctl(fd, SETSOCKOPT, struct.pack("iii", SOL_NETLINK, NETLINK_EXT_ACK, 1))
    value = struct.unpack("iii", fcntl.ioctl(fd, GETSOCKOPT, struct.pack("iii", SOL_NETLINK, NETLINK_EXT_ACK, 0)))
    assert value[2] == 1, value

    # As a socket of our own sees them.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as own:
        expected = dump_links(own.send, lambda: own.recv(1 << 20), 1)
    got = dump_links(lambda data: os.write(fd, data), lambda: os.read(fd, 1 << 20), 2)
    assert got == expected and got, (got, expected)

    # Nothing left: poll says so, and a read that must not wait does not.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    os.set_blocking(fd, False)
    try:
        os.read(fd, 4096)
        raise AssertionError("a message out of nothing")
    except BlockingIOError:
        pass

    # A read that waits, on another file: answered when a message comes, ended by a signal to nobody but itself.
    waiter = node(path, 2)
    name = struct.unpack("HHII", fcntl.ioctl(waiter, GETSOCKNAME, bytes(12)))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(os.read(waiter, 4096)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), answers
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) as sender:
        sender.sendto(struct.pack("IHHII", 16, 77, 0, 5, 0), (name[2], 0))
        thread.join(10)
    assert answers == [struct.pack("IHHII", 16, 77, 0, 5, 0)], answers
    assert struct.unpack("i", fcntl.ioctl(waiter, GET_ERROR, bytes(4)))[0] == 0

    # Groups: of two members one is the node.
    member = node(path, 2)
    fcntl.ioctl(member, ADD_MEMBERSHIP, struct.pack("I", 9))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) as sender:
        try:
            sender.sendto(struct.pack("IHHII", 16, 78, 0, 6, 0), (0, 1 << 8))
        except ConnectionRefusedError:
            pass  # its unicast part, to the kernel, which does not listen
    poll = select.epoll()
    poll.register(member, select.EPOLLIN)
    assert poll.poll(10), "no event"
    assert os.read(member, 4096) == struct.pack("IHHII", 16, 78, 0, 6, 0)
    print(f"{len(got)} links by write and read")


main(sys.argv[1])
