//! The other side in unit tests: a socket that keeps message borders stands for the driver's fd.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The daemon's end, which does not block, and the kernel's, which does.
pub(crate) fn socket_pair() -> (OwnedFd, OwnedFd) {
    let (daemon, kernel) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
    rustix::fs::fcntl_setfl(&daemon, rustix::fs::OFlags::NONBLOCK).expect("fcntl");
    (daemon, kernel)
}

pub(crate) fn memfd() -> OwnedFd {
    rustix::fs::memfd_create("cuse-rs-test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd")
}

/// Bytes from hexadecimal digits; blanks and what follows `#` in a line are for the reader.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    let bytes = (0..digits.len()).step_by(2);
    bytes.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("a digit")).collect()
}

/// A request as the kernel sends it: header of user 1, group 2, thread 3, then the body.
pub(crate) fn request(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((40 + body.len() as u32).to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    for value in [1u32, 2, 3, 0] {
        bytes.extend(value.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

/// What the daemon has sent next; `None` when it has sent nothing.
pub(crate) fn sent(kernel: &OwnedFd) -> Option<Vec<u8>> {
    use rustix::net::{RecvFlags, recv};
    let mut bytes = vec![0; 256 * 1024];
    match recv(kernel, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((len, _)) => {
            bytes.truncate(len);
            Some(bytes)
        }
        Err(rustix::io::Errno::AGAIN) => None,
        Err(error) => panic!("recv: {error}"),
    }
}
