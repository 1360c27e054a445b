//! The other side in unit tests: a socket that keeps message borders stands for the driver's fd.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The daemon's end, which does not block, and the kernel's, which does.
pub(crate) fn socket_pair() -> (OwnedFd, OwnedFd) {
    let (daemon, kernel) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("socketpair");
    rustix::fs::fcntl_setfl(&daemon, rustix::fs::OFlags::NONBLOCK).expect("fcntl");
    (daemon, kernel)
}

pub(crate) fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("cuse-rs-test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd")
}
