//! The grantor's part: sockets of clients, on which it sends and joins what policy grants and nothing else.
//!
//! The grantor is a worker with `CAP_NET_ADMIN` in the daemon's own place. It has no rings and no client's memory; what it is
//! given to send are bytes that the front has copied and judged. Each goes to the kernel by an address of its own, whatever
//! the socket is connected to.

use std::collections::HashMap;

use cuse_rs::Errno;
use nlmmap_ring::sys::SockaddrNl;

use super::wire::{Head, Packet, op};
use crate::serve::abi;
use crate::serve::socket::Socket;

/// Sockets by the handle of their open file.
pub struct Lent {
    sockets: HashMap<u64, Socket>,
    base: i32,
}

impl Lent {
    pub fn new(base: i32) -> Lent {
        Lent { sockets: HashMap::new(), base }
    }

    /// One of the requests that only a grantor gets.
    pub fn request(&mut self, packet: Packet) -> Result<(), Errno> {
        let Head { op, handle, value, flags, .. } = packet.head;
        match op {
            op::BORROW => {
                let fd = packet.fds.into_iter().next().ok_or(Errno::EBADF)?;
                let family = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
                self.sockets.insert(handle, Socket::adopt(fd, family, self.base)?);
                Ok(())
            }
            op::RETURN => {
                self.sockets.remove(&handle);
                Ok(())
            }
            op::GRANTED => {
                let kernel = SockaddrNl { family: libc::AF_NETLINK as u16, ..SockaddrNl::default() };
                self.socket(handle)?.send(Some(kernel), &packet.bytes, None).map(drop)
            }
            op::JOIN => {
                let socket = self.socket(handle)?;
                match value as u32 {
                    abi::BIND => socket.bind(&abi::read(&packet.bytes).ok_or(Errno::EINVAL)?),
                    abi::ADD_MEMBERSHIP => {
                        socket.membership(true, abi::read(&packet.bytes).ok_or(Errno::EINVAL)?, flags & 1 != 0)
                    }
                    _ => Err(Errno::EINVAL),
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn socket(&self, handle: u64) -> Result<&Socket, Errno> {
        self.sockets.get(&handle).ok_or(Errno::EBADF)
    }
}
