//! One datagram at a time, looked at before it is taken.
//!
//! While somebody waits on the real socket itself, the newest datagram is *retained*: it stays at the head of the real
//! queue after its message is in a frame, so that the socket is readable for as long as the client has something to read.

use super::{Context, Pump, Step, meta_of};
use crate::abi::status;
use crate::control::flag;
use crate::endpoint::{CONTROL_LEN, LARGEST, Scratch};
use crate::errno::Errno;
use crate::memory::Frames;
use crate::message::{self, NLMSG_GOODSIZE, NlMsg, Origin};
use crate::ring;
use crate::socket::Socket;
use crate::store::Meta;
use crate::sys::{IoVec, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MsgHdr, SockaddrNl};
use core::sync::atomic::Ordering::Relaxed;

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
    pub(super) fn one(&self, strict: bool, watched: bool) -> Step {
        if !strict && self.store_is_full() {
            return Step::Stop;
        }
        if self.control.has(flag::RETAINED) {
            // Nothing behind it has come, and it still does its duty.
            let unchanged = self.sock.queued() == Ok(self.control.retained_bytes.load(Relaxed));
            if watched && unchanged && self.readable() {
                return Step::Stop;
            }
            return self.release_retained();
        }
        let (meta, len, first) = match self.look() {
            Ok(seen) => seen,
            Err(error) => return self.failed(error),
        };
        let origin = message::origin(first, meta.portid, meta.hdr.group, self.endpoint.family.load(Relaxed));
        let place = if strict { self.strict_place(origin, len) } else { self.helpful_place() };
        let keep = if watched { MSG_PEEK } else { 0 };
        match place {
            Place::Later => {
                self.control.set(flag::BLOCKED, true);
                return Step::Stop;
            }
            Place::Nowhere => {
                let taken = self.receive_private(0, 0);
                self.overrun(origin == Origin::Ack);
                return taken.map_or_else(|e| self.failed(e), |_| Step::Moved);
            }
            Place::Frames | Place::Copy => {}
        }
        // Dumps: never more than a frame's room, or the kernel would build the next parts larger than a frame.
        let most = if len <= self.ring.geometry().room() as usize { self.ring.geometry().room() as usize } else { LARGEST };
        let (meta, bytes) = match self.receive_private(most, keep) {
            Ok(got) => got,
            Err(error) => return self.failed(error),
        };
        self.control.count(&self.control.counters.rx_datagrams, 1);
        match place {
            Place::Copy => self.take_copy(&meta, bytes),
            _ => self.ingest(&meta, bytes),
        }
        if origin == Origin::Dump {
            let ended = message::ends_dump(bytes);
            self.control.set(flag::DUMPING, !ended);
            self.control.set(flag::DUMP, !ended);
        }
        if watched {
            self.control.retained_bytes.store(self.sock.queued().unwrap_or(0), Relaxed);
            self.control.set(flag::RETAINED, true);
        }
        match (origin, self.context) {
            (Origin::Dump, Context::Send | Context::Received) => Step::Stop,
            _ => Step::Moved,
        }
    }

    fn helpful_place(&self) -> Place {
        let pos = self.forward();
        if self.ring.status(pos) == status::UNUSED { Place::Frames } else { Place::Later }
    }

    /// 4.5's ways: see abi.md, "Receiving", and the functions named in the module of the ring.
    fn strict_place(&self, origin: Origin, len: usize) -> Place {
        let room = self.ring.geometry().room();
        let in_frame = match origin {
            Origin::Ack | Origin::Packet => len <= room as usize,
            Origin::Dump => len <= room as usize && room >= NLMSG_GOODSIZE,
            Origin::Other => false,
        };
        if origin == Origin::Dump {
            let running = self.control.has(flag::DUMPING);
            let may_go_on = match self.context {
                Context::Wait | Context::Background => ring::dump_space(self.ring, self.head()),
                Context::Received => true,
                Context::Send | Context::Recv => false,
            };
            if running && !may_go_on {
                return Place::Later;
            }
        }
        let pos = if in_frame { self.forward() } else { self.head() };
        match (self.ring.status(pos) == status::UNUSED, in_frame, origin) {
            (true, true, _) => Place::Frames,
            (true, false, _) if self.store_has_room(len) => Place::Copy,
            (_, _, Origin::Dump) => Place::Later,
            _ => Place::Nowhere,
        }
    }

    fn store_has_room(&self, len: usize) -> bool {
        self.endpoint.store(self.control).has_room(len)
    }

    fn take_copy(&self, meta: &Meta, bytes: &[u8]) {
        let store = self.endpoint.store(self.control);
        // SAFETY: a slice is readable, and not in the store.
        if unsafe { store.push(meta, [(bytes.as_ptr(), bytes.len()), (core::ptr::null(), 0)]) } {
            let pos = self.head();
            store.first_unplaced();
            self.publish(pos, &meta.hdr, status::COPY);
            store.placed(true);
        } else {
            self.overrun(false);
        }
    }

    /// Takes the retained datagram off the real queue: its message is in the ring already.
    pub(super) fn release_retained(&self) -> Step {
        match self.receive_private(0, 0) {
            Ok(_) => {
                self.control.set(flag::RETAINED, false);
                Step::Moved
            }
            Err(Errno::AGAIN) => {
                // Somebody outside our sight has read it.
                self.control.set(flag::RETAINED, false);
                Step::Moved
            }
            Err(error) => self.failed(error),
        }
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
        // SAFETY: as many bytes of the local as the kernel says it wrote, at most all.
        let control = unsafe {
            core::slice::from_raw_parts(control.as_ptr().cast::<u8>(), msg.controllen.min(CONTROL_LEN))
        };
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
