//! Sending in this process: frames of a TX ring, taken by the engine.

use std::cell::Cell;
use std::os::fd::RawFd;

use nlmmap_ring::abi::{FrameHdr, status};
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::lock;
use nlmmap_ring::memory::{Frames as _, RingMemory};
use nlmmap_ring::socket::{Fd, Socket as _};
use nlmmap_ring::sys::{self, AF_NETLINK, IoVec, MsgHdr, SockaddrNl};

use super::error::{Error, Result};
use super::{Destination, Family};

/// The client role of a TX ring: its own position, and whether a frame may be filled.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pos: Cell<u32>,
    filled: Cell<bool>,
}

impl Writer {
    /// Whether frames may wait for a kick.
    pub(super) fn has_filled(&self) -> bool {
        self.filled.get()
    }

    pub(super) fn set_filled(&self, filled: bool) {
        self.filled.set(filled);
    }

    /// Whether the next frame can be filled now.
    pub(super) fn is_free(&self, ring: &RingMemory) -> bool {
        ring.status(self.pos.get()) == status::UNUSED
    }

    /// Fills the next frame, which is free and holds as many bytes.
    pub(super) fn fill(&self, ring: &RingMemory, bytes: &[u8]) {
        let pos = self.pos.get();
        // SAFETY: a slice is readable for its length; no slice leads into a TX ring, of which none is ever made.
        unsafe { ring.write_payload(pos, bytes.as_ptr(), bytes.len()) };
        ring.write_header(pos, &FrameHdr { len: bytes.len() as u32, ..FrameHdr::default() });
        ring.set_status(pos, status::VALID);
        self.pos.set(ring.next(pos));
        self.filled.set(true);
    }
}

/// The sending side of a socket.
#[derive(Debug)]
pub(super) struct Transmitter {
    endpoint: Box<Endpoint>,
    writer: Writer,
}

impl Transmitter {
    pub(super) fn new(family: Family, geometry: Geometry) -> Result<Transmitter> {
        // No signal handler can reach a ring whose socket the interrupted thread borrows: the engine need not block them.
        lock::set_catches_signals(false);
        // Its memory is taken away by `drop`, also when this fails half way.
        let transmitter = Transmitter { endpoint: Box::new(Endpoint::empty()), writer: Writer::default() };
        let endpoint = &transmitter.endpoint;
        let made = endpoint.open(family.0, false).and_then(|()| endpoint.add_ring(Which::Tx, geometry));
        made.map_err(|errno| Error::system("memory for the transmit ring", errno.0))?;
        Ok(transmitter)
    }

    /// Whether frames may wait for a kick.
    pub(super) fn has_filled(&self) -> bool {
        self.writer.has_filled()
    }

    /// Fills a frame, after a kick if none is free. A message that no frame holds is sent at once, after what was filled.
    pub(super) fn send(&self, fd: RawFd, bytes: &[u8]) -> Result<()> {
        let Some(ring) = self.endpoint.tx() else { return Err(Error::system("send", libc::EBADF)) };
        if bytes.len() > ring.geometry().room() as usize {
            return self.send_now(fd, bytes, Destination::KERNEL);
        }
        if !self.writer.is_free(ring) {
            self.kick(fd)?;
        }
        self.writer.fill(ring, bytes);
        Ok(())
    }

    /// Sends what was filled, then these bytes.
    pub(super) fn send_now(&self, fd: RawFd, bytes: &[u8], to: Destination) -> Result<()> {
        self.kick(fd)?;
        let mut iov = IoVec { base: bytes.as_ptr().cast_mut(), len: bytes.len() };
        let mut name = address(to);
        let msg = header(&mut name, &mut iov);
        // SAFETY: the header leads to locals and to the caller's bytes, which are only read.
        let sent = unsafe { Fd(fd).send(&msg, 0) };
        let sent = match sent {
            // More than SO_SNDBUF: as the rings of 4.5, which were not charged to it.
            Err(nlmmap_ring::Errno::MSGSIZE) => {
                let before = Fd(fd).make_send_room(bytes.len());
                // SAFETY: as above.
                let sent = unsafe { Fd(fd).send(&msg, 0) };
                if let Some(before) = before {
                    Fd(fd).restore_send_room(before);
                }
                sent
            }
            sent => sent,
        };
        sent.map(drop).map_err(|errno| Error::system("send", errno.0))
    }

    /// Sends what was filled: how many bytes.
    pub(super) fn kick(&self, fd: RawFd) -> Result<usize> {
        if !self.writer.has_filled() {
            return Ok(0);
        }
        let (mut name, mut none) = (address(Destination::KERNEL), IoVec { base: std::ptr::null_mut(), len: 0 });
        let template = MsgHdr { iovlen: 0, ..header(&mut name, &mut none) };
        // SAFETY: the template leads to a local address.
        let sent = unsafe { self.endpoint.kick(&Fd(fd), sys::getpid(), &template, 0) };
        // After an error later frames may wait still.
        self.writer.set_filled(sent.is_err());
        sent.map_err(|errno| Error::system("send", errno.0))
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        // SAFETY: `&mut`: nobody else is inside.
        unsafe { self.endpoint.reset() };
    }
}

pub(super) fn address(to: Destination) -> SockaddrNl {
    SockaddrNl { family: AF_NETLINK, pad: 0, portid: to.portid, groups: to.groups }
}

fn header(name: &mut SockaddrNl, iov: &mut IoVec) -> MsgHdr {
    MsgHdr {
        name: std::ptr::from_mut(name).cast(),
        namelen: size_of::<SockaddrNl>() as u32,
        iov: std::ptr::from_mut(iov),
        iovlen: 1,
        ..MsgHdr::EMPTY
    }
}
