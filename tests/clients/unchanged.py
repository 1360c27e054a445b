"""Python that never uses rings: sockets, pipes, epoll, subprocesses, mmap. Prints what it saw."""
import mmap
import os
import select
import socket
import subprocess
import tempfile
import threading

a, b = socket.socketpair()
t = threading.Thread(target=lambda: (b.recv(5), b.sendall(b"pong")))
t.start()
a.sendall(b"ping!")
print("socketpair", a.recv(10))
t.join()
e = select.epoll()
e.register(a, select.EPOLLIN | select.EPOLLOUT)
print("epoll", e.poll(0)[0][1] & select.EPOLLOUT)
with tempfile.TemporaryFile() as f:
    f.write(b"x" * 8192)
    f.flush()
    with mmap.mmap(f.fileno(), 8192) as m:
        m[0:3] = b"abc"
        print("mmap", m[:4], len(m))
print("subprocess", subprocess.run(["echo", "hi"], capture_output=True, close_fds=True).stdout)
print("shell", subprocess.run("exit 3", shell=True).returncode)
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
n.bind((0, 0))
try:
    n.setsockopt(270, 1, 1)
    print("membership set")
except OSError as x:
    print("membership", x)
n.send(bytes([20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
print("netlink dump", len(n.recv(65536)) > 20)
pid = os.fork()
if pid == 0:
    os._exit(7)
print("fork", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
d = os.dup(a.fileno())
os.dup2(d, 99)
os.closerange(98, 101)
print("dup", os.fstat(d).st_ino == os.fstat(a.fileno()).st_ino)
print("select", select.select([a], [a], [], 0)[1] == [a])
