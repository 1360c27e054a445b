#!/usr/bin/env python3
"""The socket calls of the node: destinations, senders, ancillary data, options, parts. Usage: device_calls.py NODE"""

import errno
import fcntl
import os
import select
import socket
import struct
import sys

MAGIC = 0xDA
READ, WRITE = 2, 1
NETLINK_USERSOCK, SOL_NETLINK, NETLINK_PKTINFO = 2, 270, 3
MESSAGE, CONTROL, ROOM = struct.Struct("IIIIHHIIIQ"), 256, 16000
STAYS, SEND_NEXT, MSG_TRUNC, POLLMSG = 1 << 31, 1 << 31, 0x20, 0x400
SO_ATTACH_FILTER, SO_DETACH_FILTER, STRICT = 26, 27, 1 << 31


def call(fd, direction, nr, data, size=None):
    buffer = bytearray(data) + bytearray((size or len(data)) - len(data))
    fcntl.ioctl(fd, direction << 30 | len(buffer) << 16 | MAGIC << 8 | nr, buffer, True)
    return bytes(buffer)


def address(port, groups=0):
    return struct.pack("HHII", 16, 0, port, groups)


def send(fd, port, data):
    call(fd, WRITE, 0x10, address(port) + struct.pack("II", 12, 0) + data)


def receive(fd, room=ROOM, nr=0x11):
    size = MESSAGE.size + CONTROL + room
    answer = call(fd, READ, nr, b"", size)
    length, flags, control, count, family, _, port, groups, _, serial = MESSAGE.unpack_from(answer)
    assert family == 16, family
    at = (MESSAGE.size + control + 7) & ~7
    return {
        "len": length,
        "flags": flags,
        "control": answer[MESSAGE.size : MESSAGE.size + control],
        "data": answer[at : at + count],
        "port": port,
        "groups": groups,
        "serial": serial,
    }


def fails(error, f, *args):
    try:
        f(*args)
    except OSError as e:
        assert e.errno == error, (errno.errorcode[e.errno], errno.errorcode[error])
    else:
        raise AssertionError(f"expected {errno.errorcode[error]}")


def option(fd, level, name, value):
    call(fd, WRITE, 0x14, struct.pack("iiI", level, name, len(value)) + value)


def get_option(fd, level, name, size):
    answer = call(fd, READ | WRITE, 0x15, struct.pack("iiI", level, name, size), 12 + size)
    return answer[12 : 12 + struct.unpack_from("I", answer, 8)[0]]


def ready(fd, events):
    waiting = select.poll()
    waiting.register(fd, events)
    return dict(waiting.poll(0)).get(fd, 0)


def node(path, ring=None):
    fd = os.open(path, os.O_RDWR)
    # With rings as 4.5 had them: there every message of a process came by a receive.
    kind = socket.SOCK_RAW | (STRICT if ring else 0)
    call(fd, WRITE, 0x01, struct.pack("II", kind, NETLINK_USERSOCK))
    call(fd, WRITE, 0x02, address(0))
    if ring:
        call(fd, WRITE, 0x09, struct.pack("IIII", *ring))
    return fd, struct.unpack("HHII", call(fd, READ, 0x04, bytes(12)))[2]


def messages(path, ring):
    fd, port = node(path, ring)
    fails(errno.EAGAIN, receive, fd)
    assert ready(fd, POLLMSG) == 0
    send(fd, port, b"x" * 100)
    assert ready(fd, POLLMSG) == POLLMSG
    seen = receive(fd, nr=0x12)
    assert (seen["data"], seen["port"], seen["control"]) == (b"x" * 100, port, b""), seen
    assert receive(fd)["data"] == b"x" * 100
    fails(errno.EAGAIN, receive, fd)

    # Cut, as by recvmsg.
    send(fd, port, b"y" * 100)
    seen = receive(fd, 10)
    assert (seen["len"], seen["data"], seen["flags"]) == (100, b"y" * 10, MSG_TRUNC), seen
    fails(errno.EAGAIN, receive, fd)

    # Longer than any argument: it comes in parts.
    whole = bytes(range(256)) * 160
    call(fd, WRITE, 0x10, address(port) + struct.pack("II", 12, SEND_NEXT))
    assert os.write(fd, whole) == len(whole)
    seen = receive(fd)
    assert (seen["flags"], seen["len"]) == (STAYS, len(whole)), (seen["flags"], seen["len"])
    got = seen["data"]
    while len(got) < len(whole):
        answer = call(fd, READ | WRITE, 0x13, struct.pack("QII", seen["serial"], len(got), 0), 16 + ROOM)
        count = struct.unpack_from("I", answer, 12)[0]
        assert count > 0
        got += answer[16 : 16 + count]
    assert got == whole
    call(fd, READ | WRITE, 0x13, struct.pack("QII", seen["serial"], len(got), 0))
    fails(errno.ESTALE, call, fd, READ | WRITE, 0x13, struct.pack("QII", seen["serial"], 0, 0), 16 + 10)
    fails(errno.EAGAIN, receive, fd)

    # Ancillary data that the client asked for, and none that the rings need.
    assert get_option(fd, SOL_NETLINK, NETLINK_PKTINFO, 4) == bytes(4)
    option(fd, SOL_NETLINK, NETLINK_PKTINFO, struct.pack("i", 1))
    option(fd, socket.SOL_SOCKET, socket.SO_PASSCRED, struct.pack("i", 1))
    send(fd, port, b"z" * 16)
    control = receive(fd)["control"]
    assert struct.unpack_from("QiiI", control) == (20, SOL_NETLINK, 3, 0), control
    length, level, kind, _, uid, gid = struct.unpack_from("QiiIII", control, 24)
    assert (length, level, kind, uid, gid) == (28, 1, 2, os.getuid(), os.getgid()), control
    option(fd, socket.SOL_SOCKET, socket.SO_PASSCRED, struct.pack("i", 0))
    assert get_option(fd, socket.SOL_SOCKET, socket.SO_PASSCRED, 4) == bytes(4)
    option(fd, SOL_NETLINK, NETLINK_PKTINFO, struct.pack("i", 0))
    send(fd, port, b"z" * 16)
    assert receive(fd)["control"] == b""

    # A filter that drops everything, and without it.
    option(fd, socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HBBI", 6, 0, 0, 0))
    send(fd, port, b"z" * 16)
    fails(errno.EAGAIN, receive, fd)
    option(fd, socket.SOL_SOCKET, SO_DETACH_FILTER, bytes(4))
    send(fd, port, b"z" * 16)
    assert receive(fd)["data"] == b"z" * 16

    assert struct.unpack("i", get_option(fd, socket.SOL_SOCKET, 3, 4))[0] == socket.SOCK_RAW
    option(fd, socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 3, 0))
    assert get_option(fd, socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == struct.pack("qq", 3, 0)
    fails(errno.ENOPROTOOPT, option, fd, socket.SOL_SOCKET, 50, bytes(4))
    fails(errno.EINVAL, call, fd, WRITE, 0x14, struct.pack("iiI", 1, 8, 99) + bytes(4))
    fails(errno.EINVAL, call, fd, WRITE, 0x10, address(port) + struct.pack("II", 5, 0) + b"x")
    fails(errno.EINVAL, call, fd, WRITE, 0x10, address(port) + struct.pack("II", 12, 4) + b"x")
    fails(errno.EINVAL, call, fd, WRITE, 0x10, b"short")
    fails(errno.EINVAL, call, fd, READ, 0x11, bytes(40))
    os.close(fd)


def mapped(path):
    fd, _ = node(path)
    fails(errno.EINVAL, call, fd, READ | WRITE, 0x16, struct.pack("IIQQ", 1, 0, 0, 0))
    call(fd, WRITE, 0x09, struct.pack("IIII", 4096, 2, 2048, 4))
    kind, protocol, rings, _, _, inode = struct.unpack("IIIIQQ", call(fd, READ, 0x17, bytes(32)))
    assert (kind, protocol, rings) == (socket.SOCK_RAW, NETLINK_USERSOCK, 1)
    with open("/proc/self/net/netlink") as table:
        assert str(inode) in [line.split()[-1] for line in table]
    free = (fd, WRITE, 0x09, struct.pack("IIII", 0, 0, 0, 0))
    answer = call(fd, READ | WRITE, 0x16, struct.pack("IIQQ", 1, 0, 0, 0))
    assert struct.unpack("IIQQ", answer)[2:] == (8192, 0), answer
    fails(errno.EBUSY, call, *free)
    child = os.fork()
    if child == 0:
        call(fd, READ | WRITE, 0x16, struct.pack("IIQQ", 1, 0, 0, 0))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    call(fd, READ | WRITE, 0x16, struct.pack("IIQQ", 0, 0, 0, 0))
    # The child said it and has ended: nobody maps them.
    call(*free)
    os.close(fd)


def main(path):
    messages(path, None)
    messages(path, (65536, 1, 4096, 16))
    mapped(path)
    print("ok")


main(sys.argv[1])
