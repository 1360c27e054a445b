//! One datagram at a time, looked at before it is taken: strict mode.
//!
//! The 4.5 kernel chose a frame's fate by what the message was, and when a dump goes on; here both are found out by a look at
//! the datagram before it is taken.

use super::{Context, Pump, Step, meta_of};
use crate::abi::status;
use crate::control::flag;
use crate::endpoint::{CONTROL_LEN, LARGEST, Scratch};
use crate::errno::Errno;
use crate::memory::Frames;
use crate::message::{self, NLMSG_GOODSIZE, NlMsg, Origin};
use crate::ring;
use crate::socket::Socket;
use crate::store::{Meta, SOFT_LIMIT};
use crate::sys::{IoVec, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MsgHdr, SockaddrNl};
use core::sync::atomic::Ordering::Relaxed;

/// Dump parts that one run may take from in front of what is behind them.
const MOST_SET_ASIDE: u32 = 64;

/// Where the next datagram goes.
enum Place {
    /// Into frames, as its size allows.
    Frames,
    /// `COPY`.
    Copy,
    /// Nowhere: overrun.
    Nowhere,
    /// It stays in the socket.
    Later,
}

impl<S: Socket> Pump<'_, S> {
    /// Looks at the next datagram and takes it where it belongs.
    pub(super) fn one(&self) -> Step {
        if self.context == Context::Background && self.control.has(flag::DUMPING) && !self.may_resume_dump() {
            // Even a look would make the kernel go on with the dump.
            return self.blocked(false);
        }
        let (meta, len, first) = match self.look() {
            Ok(seen) => seen,
            Err(error) => return self.failed(error),
        };
        let origin = message::origin(first, meta.portid, meta.hdr.group, self.endpoint.family.load(Relaxed));
        if self.is_plug(&meta, len) {
            return self.leave_or_pull_plug();
        }
        if self.may_be_bell(&meta, len) {
            return match self.receive_private(len, 0) {
                Ok((meta, bytes)) if self.took_bell(&meta, bytes) => Step::Moved,
                Ok((meta, bytes)) => {
                    self.take_copy(&meta, bytes);
                    Step::Moved
                }
                Err(error) => self.failed(error),
            };
        }
        let place = self.place(origin, len);
        match place {
            Place::Later => return self.set_aside(len),
            Place::Nowhere => {
                let taken = self.receive_private(0, 0);
                self.overrun(origin == Origin::Ack && len <= self.ring.geometry().room() as usize);
                return taken.map_or_else(|e| self.failed(e), |_| Step::Moved);
            }
            Place::Frames | Place::Copy => {}
        }
        // Dumps: never more than a frame's room, or the kernel would build the next parts larger than a frame.
        let most = len.max(self.ring.geometry().room() as usize);
        let (meta, bytes) = match self.receive_private(most, 0) {
            Ok(got) => got,
            Err(error) => return self.failed(error),
        };
        self.control.count(&self.control.counters.rx_datagrams, 1);
        let family = self.endpoint.family.load(Relaxed);
        let cut = if origin == Origin::Dump { message::first_part(bytes, family) } else { bytes.len() };
        let (bytes, rest) = bytes.split_at_checked(cut).unwrap_or((bytes, &[]));
        match place {
            Place::Copy => self.take_copy(&meta, bytes),
            // Past dump parts that were set aside, if there are any.
            _ => self.fill(self.head(), &meta, bytes),
        }
        if origin == Origin::Dump {
            self.went_on.set(true);
            let ended = message::ends_dump(bytes);
            self.control.set(flag::DUMPING, !ended);
            self.control.set(flag::DUMP, !ended && !message::ends_dump(rest));
            self.keep(&meta, rest);
            self.place_backlog();
        }
        match (origin, self.context) {
            (Origin::Dump, Context::Send | Context::Received) => Step::Stop,
            _ => Step::Moved,
        }
    }

    /// 4.5's ways: see abi.md, "Receiving", and the functions named in the module of the ring.
    fn place(&self, origin: Origin, len: usize) -> Place {
        let room = self.ring.geometry().room();
        let in_frame = match origin {
            Origin::Ack | Origin::Packet => len <= room as usize,
            Origin::Dump => len <= room as usize && room >= NLMSG_GOODSIZE,
            Origin::Other => false,
        };
        if origin == Origin::Dump {
            let running = self.control.has(flag::DUMPING);
            if running && !self.may_resume_dump() || self.endpoint.store(self.control).unplaced() > 0 {
                return Place::Later;
            }
            let pos = if in_frame { self.ahead() } else { self.head() };
            if self.ring.status(pos) != status::UNUSED && (!running || self.context == Context::Received) {
                self.refuse_dump();
                return Place::Later;
            }
        }
        let pos = if in_frame { self.ahead() } else { self.head() };
        // Also to a frame that is taken: `netlink_alloc_skb` has stepped over the others by then.
        self.step_to(pos);
        match (self.ring.status(pos) == status::UNUSED, in_frame, origin) {
            (true, true, _) => Place::Frames,
            // netlink_attachskb: a congested socket takes nothing into its queue, frames of its own apart.
            (true, false, Origin::Ack | Origin::Packet | Origin::Other) if self.control.has(flag::CONGESTED) => {
                Place::Nowhere
            }
            (true, false, _) if self.store_has_room(len) => Place::Copy,
            (_, _, Origin::Dump) => Place::Later,
            _ => Place::Nowhere,
        }
    }

    /// A dump part that may not go on yet. The 4.5 kernel would not have made it: what the client's sends have queued behind it
    /// must not wait for it. Not without end, since each look and each part taken makes the kernel produce the next.
    fn set_aside(&self, len: usize) -> Step {
        let store = self.endpoint.store(self.control);
        if !matches!(self.context, Context::Send | Context::Recv)
            || self.set_aside.replace(self.set_aside.get() + 1) >= MOST_SET_ASIDE
            || store.used() >= SOFT_LIMIT
        {
            return self.blocked(false);
        }
        match self.receive_private(len.max(self.ring.geometry().room() as usize), 0) {
            Ok((meta, bytes)) => {
                self.keep(&meta, bytes);
                Step::Moved
            }
            Err(error) => self.failed(error),
        }
    }

    /// Keeps what is left of a dump part until it may have frames.
    fn keep(&self, meta: &Meta, mut bytes: &[u8]) {
        let family = self.endpoint.family.load(Relaxed);
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at_checked(message::first_part(bytes, family)).unwrap_or((bytes, &[]));
            // SAFETY: a slice is readable, and not in the store.
            if !unsafe {
                self.endpoint.store(self.control).push(meta, [(part.as_ptr(), part.len()), (core::ptr::null(), 0)])
            } {
                self.overrun(false);
            }
            bytes = rest;
        }
    }

    /// Whether dump parts that were set aside may have frames now.
    pub(super) fn may_resume_dump(&self) -> bool {
        match self.context {
            Context::Wait => ring::dump_space(self.ring, self.head()),
            Context::Background => !self.readable() && self.control.waiters.load(Relaxed) == 0,
            // `netlink_recvmsg` made one part, however much of the ring was free.
            Context::Received => self.endpoint.strict.load(Relaxed) && !self.went_on.get(),
            Context::Send | Context::Recv => false,
        }
    }

    fn store_has_room(&self, len: usize) -> bool {
        self.endpoint.store(self.control).has_room(len)
    }

    fn take_copy(&self, meta: &Meta, bytes: &[u8]) {
        // SAFETY: a slice is readable, and not in the store.
        unsafe { self.copy(self.head(), meta, bytes.as_ptr(), bytes.len()) };
    }

    /// The next datagram's size, first header and origin, without taking it.
    fn look(&self) -> Result<(Meta, usize, Option<NlMsg>), Errno> {
        let mut head = [0u8; 16];
        let mut name = SockaddrNl::default();
        let mut control = [0u64; CONTROL_LEN / 8];
        let mut iov = IoVec { base: head.as_mut_ptr(), len: head.len() };
        let mut msg = MsgHdr {
            name: (&raw mut name).cast(),
            namelen: size_of::<SockaddrNl>() as u32,
            iov: &raw mut iov,
            iovlen: 1,
            control: control.as_mut_ptr().cast(),
            controllen: CONTROL_LEN,
            flags: 0,
        };
        self.control.count(&self.control.counters.calls, 1);
        // SAFETY: everything points to locals of the stated lengths.
        let len = unsafe { self.sock.recv(&mut msg, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT)? };
        let control =
            // SAFETY: as many bytes of the local as the kernel says it wrote, at most all.
            unsafe { core::slice::from_raw_parts(control.as_ptr().cast::<u8>(), msg.controllen.min(CONTROL_LEN)) };
        let first = head.get(..len.min(head.len())).and_then(|b| message::header(b, 0));
        Ok((meta_of(&name, control, len, false), len, first))
    }

    /// Receives one datagram into the first spill area, announcing `most` bytes (`LARGEST` at most).
    pub(super) fn receive_private(&self, most: usize, flags: u32) -> Result<(Meta, &[u8]), Errno> {
        let scratch: *mut Scratch = self.endpoint.scratch();
        let most = most.min(LARGEST);
        let mut iov = IoVec { base: self.endpoint.spill(0), len: most };
        // SAFETY: the scratch memory belongs to the lock's holder; no reference to it is made.
        let (name, control) = unsafe { (&raw mut (*scratch).names, &raw mut (*scratch).control) };
        let mut msg = MsgHdr {
            name: name.cast(),
            namelen: size_of::<SockaddrNl>() as u32,
            iov: &raw mut iov,
            iovlen: 1,
            control: control.cast(),
            controllen: CONTROL_LEN,
            flags: 0,
        };
        self.control.count(&self.control.counters.calls, 1);
        // SAFETY: vectors, name and control are scratch memory of the stated lengths.
        let len = unsafe { self.sock.recv(&mut msg, flags | MSG_DONTWAIT)? }.min(most);
        // SAFETY: written by the receive, which is over; within the scratch memory.
        let (name, control, bytes) = unsafe {
            let control = core::slice::from_raw_parts(control.cast::<u8>(), msg.controllen.min(CONTROL_LEN));
            (name.cast::<SockaddrNl>().read(), control, core::slice::from_raw_parts(self.endpoint.spill(0), len))
        };
        Ok((meta_of(&name, control, len, msg.flags & MSG_TRUNC != 0), bytes))
    }
}
