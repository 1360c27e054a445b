//! The kernel's half: a netlink socket that is a queue in memory, with the habits of `af_netlink.c` that the engine meets.
//!
//! - a pending error is told before any message
//! - every receive, a look included, makes a running dump produce its next part, as large as the largest receive announced
//! - `recvmmsg` and `sendmmsg` stop at the first error and tell it only when nothing went before
//! - what does not fit the vectors is cut and marked `MSG_TRUNC`
//! - a full receive buffer refuses messages; a multicast that is lost to it is told once, and nothing more is taken until the
//!   reader has emptied the queue (`NETLINK_S_CONGESTED`)
//!
//! Behind the data it received, a private buffer is poisoned: no byte of [`POISON`] is part of any message here, so none may
//! ever be seen in a frame. Frames themselves are left as the kernel leaves them.

use crate::dump::Dump;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::socket::Socket;
use nlmmap_ring::sys::{IoVec, MMsgHdr, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MsgHdr, SockaddrNl};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// A byte that no message holds.
pub const POISON: u8 = 0xa5;
/// What a message is charged beside its bytes.
const OVERHEAD: u32 = 512;

/// A datagram with everything the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub bytes: Vec<u8>,
    pub portid: u32,
    pub group: u32,
    /// Process, user and group id of the sender.
    pub creds: [u32; 3],
}

/// What becomes of a message that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    /// The peer is full: a send that may not sleep fails, one that may succeeds.
    Sleeps,
    /// Larger than `SO_SNDBUF` allows, until room is made.
    TooLarge,
    Fails(Errno),
}

/// A message that went out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    /// Port id and groups of the destination, if one was given.
    pub to: Option<(u32, u32)>,
}

#[derive(Default)]
pub struct Mock {
    pub queue: RefCell<VecDeque<Datagram>>,
    /// Told by the next receives, whatever waits.
    pub faults: RefCell<VecDeque<Errno>>,
    pub dump: RefCell<Option<Dump>>,
    /// The largest receive so far, as far as dumps mind (`max_recvmsg_len`).
    pub announced: Cell<usize>,
    pub portid: Cell<u32>,
    /// `SO_RCVBUF`
    pub receive_room: Cell<u32>,
    /// Whether that limit holds.
    pub is_limited: Cell<bool>,
    /// A loss was told, and the queue has not been empty since.
    pub is_congested: Cell<bool>,
    /// What becomes of a message, by its bytes.
    pub fates: RefCell<HashMap<Vec<u8>, Outcome>>,
    pub sent: RefCell<Vec<Sent>>,
    /// Whether the kernel acknowledges what is sent to it.
    pub acks: Cell<bool>,
    /// Whether the socket may send to itself.
    pub refuses_bell: Cell<bool>,
    send_room: Cell<bool>,
    pub calls: Cell<u64>,
    /// Ring memory, which is not poisoned.
    pub rings: RefCell<Vec<Range<usize>>>,
    /// Of each message received, where its first vector lay: in a ring or not.
    pub landed: RefCell<Vec<bool>>,
    /// Whether each message says what namespace it comes from, as with `NETLINK_LISTEN_ALL_NSID`.
    pub tells_namespace: Cell<bool>,
    /// Runs inside every call, as another thread might.
    pub meanwhile: RefCell<Option<Box<dyn FnMut()>>>,
}

impl Mock {
    /// A message arrives, unless the receive buffer is full (`netlink_attachskb`).
    pub fn arrive(&self, datagram: Datagram) -> bool {
        if self.is_limited.get() && (self.is_congested.get() || self.charged() > self.receive_room.get()) {
            return false;
        }
        self.queue.borrow_mut().push_back(datagram);
        true
    }

    /// A message to a group arrives, or is lost and told (`netlink_broadcast_deliver`, `netlink_overrun`).
    pub fn multicast(&self, datagram: Datagram) -> bool {
        let taken = self.arrive(datagram);
        if !taken && !self.is_congested.replace(true) {
            self.faults.borrow_mut().push_back(Errno::NOBUFS);
        }
        taken
    }

    /// `netlink_rcv_wake`
    pub fn wake(&self) {
        if self.queue.borrow().is_empty() {
            self.is_congested.set(false);
        }
    }

    /// Whether a waiter on the bare socket would wake.
    pub fn is_readable(&self) -> bool {
        // Interruptions are no state of the socket.
        let has_error = self.faults.borrow().iter().any(|e| !matches!(*e, Errno::INTR | Errno::AGAIN));
        has_error || !self.queue.borrow().is_empty()
    }

    fn charged(&self) -> u32 {
        self.queue.borrow().iter().map(|d| d.bytes.len() as u32 + OVERHEAD).sum()
    }

    /// Starts a dump; its first part is made at once, as in `netlink_dump_start`.
    pub fn start_dump(&self, dump: Dump) {
        *self.dump.borrow_mut() = Some(dump);
        self.go_on_with_dump();
    }

    fn go_on_with_dump(&self) {
        let mut dump = self.dump.borrow_mut();
        if let Some(running) = dump.as_mut() {
            let bytes = running.part(self.announced.get());
            let is_over = running.is_over();
            self.queue.borrow_mut().push_back(Datagram { bytes, portid: 0, group: 0, creds: [0; 3] });
            if is_over {
                *dump = None;
            }
        }
    }

    fn enter(&self) {
        self.calls.set(self.calls.get() + 1);
        if let Some(f) = self.meanwhile.borrow_mut().as_mut() {
            f();
        }
    }

    unsafe fn receive(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        if let Some(error) = self.faults.borrow_mut().pop_front() {
            return Err(error);
        }
        let peek = flags & MSG_PEEK != 0;
        let next = if peek { self.queue.borrow().front().cloned() } else { self.queue.borrow_mut().pop_front() };
        let d = next.ok_or(Errno::AGAIN)?;
        self.wake();
        // SAFETY: the engine's duty: `iovlen` vectors, each valid for its length.
        let (copied, announced) = unsafe { self.scatter(&d.bytes, msg) };
        msg.flags = if copied < d.bytes.len() { MSG_TRUNC } else { 0 };
        // SAFETY: the engine's duty: name and control are valid for their lengths.
        unsafe { describe(&d, msg, self.tells_namespace.get()) };
        self.announced.set(self.announced.get().max(announced.min(32 << 10)));
        // netlink_recvmsg goes on with the dump while the queue is at most half full; a dump keeps one part in it.
        if self.queue.borrow().len() < 64 {
            self.go_on_with_dump();
        }
        Ok(if flags & MSG_TRUNC != 0 { d.bytes.len() } else { copied })
    }

    unsafe fn scatter(&self, bytes: &[u8], msg: &MsgHdr) -> (usize, usize) {
        let (mut rest, mut announced) = (bytes, 0);
        for i in 0..msg.iovlen {
            // SAFETY: the caller's duty.
            let v = unsafe { msg.iov.add(i).read() };
            announced += v.len;
            let (now, later) = rest.split_at(v.len.min(rest.len()));
            // SAFETY: as above; the source is a message of ours.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), v.base, now.len()) };
            let in_ring = self.rings.borrow().iter().any(|r| r.contains(&v.base.addr()));
            if i == 0 {
                self.landed.borrow_mut().push(in_ring);
            }
            if !in_ring {
                let spare = (v.len - now.len()).min(256);
                // SAFETY: behind the data, inside the vector.
                unsafe { v.base.add(now.len()).write_bytes(POISON, spare) };
            }
            rest = later;
        }
        (bytes.len() - rest.len(), announced)
    }

    unsafe fn transmit(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        let mut bytes = Vec::new();
        for i in 0..msg.iovlen {
            // SAFETY: the engine's duty: `iovlen` vectors, each readable for its length.
            unsafe {
                let v: IoVec = msg.iov.add(i).read();
                let mut part = vec![0u8; v.len];
                std::ptr::copy_nonoverlapping(v.base, part.as_mut_ptr(), v.len);
                bytes.extend(part);
            }
        }
        let name = (!msg.name.is_null() && msg.namelen >= 12).then(|| {
            // SAFETY: as above: `namelen` bytes.
            let name = unsafe { msg.name.cast::<SockaddrNl>().read_unaligned() };
            (name.portid, name.groups)
        });
        if name.is_some_and(|(portid, _)| portid != 0 && portid == self.portid.get()) {
            return self.ring_itself(bytes);
        }
        match self.fates.borrow().get(&bytes).copied().unwrap_or(Outcome::Sent) {
            Outcome::Sleeps if flags & MSG_DONTWAIT != 0 => return Err(Errno::AGAIN),
            Outcome::TooLarge if !self.send_room.get() => return Err(Errno::MSGSIZE),
            Outcome::Fails(error) => return Err(error),
            _ => {}
        }
        let len = bytes.len();
        if self.acks.get() {
            self.queue.borrow_mut().push_back(crate::message::ack(&bytes));
        }
        self.sent.borrow_mut().push(Sent { bytes, to: name });
        Ok(len)
    }

    fn ring_itself(&self, bytes: Vec<u8>) -> Result<usize> {
        if self.refuses_bell.get() {
            return Err(Errno::PERM);
        }
        let len = bytes.len();
        let d = Datagram { bytes, portid: self.portid.get(), group: 0, creds: [1, 2, 3] };
        if self.arrive(d) { Ok(len) } else { Err(Errno::AGAIN) }
    }
}

/// Name and ancillary data, as with `NETLINK_PKTINFO` and `SO_PASSCRED` set.
unsafe fn describe(d: &Datagram, msg: &mut MsgHdr, tells_namespace: bool) {
    let groups = if (1..=32).contains(&d.group) { 1 << (d.group - 1) } else { 0 };
    let name = SockaddrNl { family: 16, pad: 0, portid: d.portid, groups };
    assert!(msg.namelen >= 12, "the engine asks for names");
    // SAFETY: the caller's duty.
    unsafe { msg.name.cast::<SockaddrNl>().write_unaligned(name) };
    msg.namelen = 12;
    let mut out: Vec<u8> = Vec::new();
    let known = [(270u32, 3u32, &[d.group][..]), (1, 2, &d.creds[..])];
    let namespace = tells_namespace.then_some((270, 8, &[5][..]));
    for (level, kind, words) in known.into_iter().chain(namespace) {
        out.extend((16 + words.len() as u64 * 4).to_ne_bytes());
        out.extend(level.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        words.iter().for_each(|w| out.extend(w.to_ne_bytes()));
        out.resize(out.len().next_multiple_of(8), 0);
    }
    assert!(msg.controllen >= out.len(), "the engine asks for groups and credentials");
    // SAFETY: the caller's duty.
    unsafe { std::ptr::copy_nonoverlapping(out.as_ptr(), msg.control, out.len()) };
    msg.controllen = out.len();
}

// SAFETY: writes keep to the vectors, names and control buffers that the headers point to.
unsafe impl Socket for Mock {
    unsafe fn recv_batch(&self, msgs: &mut [MMsgHdr]) -> Result<usize> {
        self.enter();
        for (i, msg) in msgs.iter_mut().enumerate() {
            if i > 0 && !self.faults.borrow().is_empty() {
                return Ok(i);
            }
            // SAFETY: the caller's duty.
            match unsafe { self.receive(&mut msg.hdr, MSG_DONTWAIT) } {
                Ok(n) => msg.len = n as u32,
                Err(e) if i == 0 => return Err(e),
                Err(_) => return Ok(i),
            }
        }
        Ok(msgs.len())
    }

    unsafe fn recv(&self, msg: &mut MsgHdr, flags: u32) -> Result<usize> {
        self.enter();
        assert!(flags & MSG_DONTWAIT != 0, "a pump never sleeps");
        // SAFETY: the caller's duty.
        unsafe { self.receive(msg, flags) }
    }

    unsafe fn send_batch(&self, msgs: &mut [MMsgHdr], flags: u32) -> Result<usize> {
        self.enter();
        for (i, msg) in msgs.iter_mut().enumerate() {
            // SAFETY: the caller's duty.
            match unsafe { self.transmit(&msg.hdr, flags) } {
                Ok(n) => msg.len = n as u32,
                Err(e) if i == 0 => return Err(e),
                Err(_) => return Ok(i),
            }
        }
        Ok(msgs.len())
    }

    unsafe fn send(&self, msg: &MsgHdr, flags: u32) -> Result<usize> {
        self.enter();
        // SAFETY: the caller's duty.
        unsafe { self.transmit(msg, flags) }
    }

    unsafe fn would_send(&self, _template: &MsgHdr, _flags: u32) -> Result<()> {
        Ok(())
    }

    fn queued(&self) -> Result<u32> {
        Ok(self.charged())
    }

    fn portid(&self) -> Result<u32> {
        Ok(self.portid.get())
    }

    fn autobind(&self) -> Result<u32> {
        self.portid.set(4321);
        Ok(4321)
    }

    fn take_error(&self) -> i32 {
        // Interruptions are no state of the socket.
        let mut faults = self.faults.borrow_mut();
        match faults.iter().position(|e| !matches!(*e, Errno::INTR | Errno::AGAIN)) {
            Some(at) => faults.remove(at).map_or(0, |e| e.0),
            None => 0,
        }
    }

    fn set_receive_room(&self, bytes: u32) -> Result<u32> {
        // The kernel doubles, and keeps to its least (SOCK_MIN_RCVBUF).
        Ok(self.receive_room.replace((bytes * 2).max(2304)))
    }

    fn make_send_room(&self, _len: usize) -> Option<u32> {
        self.send_room.set(true);
        Some(212_992)
    }

    fn restore_send_room(&self, before: u32) {
        assert_eq!(before, 212_992);
        self.send_room.set(false);
    }
}
