"""A Python client through ctypes: the position moves on at any frame that is looked at (clients.md 4).

One POLLIN without a ready head frame would put it out of step for ever, so it checks each message's
number. Exit status as in ring.h: 0 held, 1 failed, 3 refused with ENOPROTOOPT.
"""
import ctypes
import ctypes.util
import errno
import os
import select
import socket
import struct
import sys

SOL_NETLINK, RX_RING, TX_RING = 270, 6, 7
UNUSED, VALID, COPY = 0, 2, 3
HDR = struct.Struct("=IIIIII")
FRAME, FRAMES = 2048, 16

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.sendto.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
libc.sendto.restype = ctypes.c_ssize_t


def fail(why):
    print(f"ctypes_client.py: {why}", file=sys.stderr)
    sys.exit(1)


def set_ring(fd, option, size):
    request = struct.pack("=IIII", 4096, size // 4096, FRAME, size // FRAME)
    if libc.setsockopt(fd, SOL_NETLINK, option, request, len(request)) < 0:
        e = ctypes.get_errno()
        if e == errno.ENOPROTOOPT:
            print("refused:", os.strerror(e), file=sys.stderr)
            sys.exit(3)
        fail(f"setsockopt: {os.strerror(e)}")


def message(seq, size):
    return struct.pack("=IHHII", size, 77, 1, seq, 0) + bytes((seq + i) & 255 for i in range(size - 16))


class Ring:
    def __init__(self, address):
        self.address, self.position = address, 0

    def frame(self):
        """The frame at the position; looking at it moves the position."""
        at = self.address + self.position * FRAME
        self.position = (self.position + 1) % FRAMES
        return at


def main():
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2)
    size = FRAME * FRAMES
    set_ring(sock.fileno(), RX_RING, size)
    set_ring(sock.fileno(), TX_RING, size)
    base = libc.mmap(None, size * 2, 3, 1, sock.fileno(), 0)
    if base in (None, ctypes.c_void_p(-1).value):
        fail(f"mmap: {os.strerror(ctypes.get_errno())}")
    sock.bind((0, 0))
    port = sock.getsockname()[0]
    rx, tx = Ring(base), Ring(base + size)
    sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2)
    sender.bind((0, 0))
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    loop = select.epoll()
    loop.register(sock, select.EPOLLIN)
    address = struct.pack("=HHII", socket.AF_NETLINK, 0, port, 0)

    for seq in range(400):
        want = message(seq, 100 + seq * 13 % 3000)
        if seq % 3 == 0 and len(want) <= FRAME - HDR.size:
            at = tx.frame()
            ctypes.memmove(at + HDR.size, want, len(want))
            ctypes.memmove(at, HDR.pack(VALID, len(want), 0, 0, 0, 0), HDR.size)
            if libc.sendto(sock.fileno(), None, 0, 0, address, len(address)) != len(want):
                fail(f"kick {seq}: {os.strerror(ctypes.get_errno())}")
        else:
            sender.sendto(want, (port, 0))
        waited = [poller.poll(2000), loop.poll(2), select.select([sock], [], [], 2)[0]][seq % 3]
        if not waited:
            fail(f"message {seq}: no wake-up")
        at = rx.frame()
        status, length, group, pid, uid, gid = HDR.unpack(ctypes.string_at(at, HDR.size))
        if status == VALID:
            got = ctypes.string_at(at + HDR.size, length)
        elif status == COPY:
            got = sock.recv(length)
        else:
            fail(f"message {seq}: woken for a frame of status {status}")
        ctypes.memmove(at, struct.pack("=I", UNUSED), 4)
        if got != want:
            fail(f"message {seq} of {len(want)} bytes differs, {len(got)} came")
        if pid != os.getpid() or group != 0:
            fail(f"message {seq}: nm_pid {pid}, nm_group {group}")
        if poller.poll(0):
            fail(f"message {seq}: readable after its release")
    libc.munmap(base, size * 2)
    sock.close()
    print("ok")


main()
