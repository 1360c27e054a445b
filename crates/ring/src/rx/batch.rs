//! The fast path: one `recvmmsg` whose vectors point straight into free frames.
//!
//! Each message's vectors are the frame's payload and a spill area of its own, so that nothing is ever cut short. A message
//! that fits is in place when the call returns. One that does not, and everything behind it in the same batch, goes through
//! the store: the order of frames is the order of messages (protocol.md, I5).
//!
//! Where long messages are expected private memory stands in for the payload, and they are copied into their frames: a payload
//! begins where the kernel may copy to slowly ([`crate::bulk`]).

use super::{End, Pump, Request, Step, is_copied, is_dump_part, meta_of};
use crate::abi::{self, NLMSG_HDRLEN, status};
use crate::bulk;
use crate::control::flag;
use crate::endpoint::{CONTROL_LEN, LARGEST, LARGEST_APART, VLEN};
use crate::errno::Errno;
use crate::memory::Frames;
use crate::message::{self, Survey};
use crate::ring;
use crate::rx::Context;
use crate::socket::{self, Socket};
use crate::store::{Meta, SOFT_LIMIT};
use crate::sys::{IoVec, MMsgHdr, MSG_DONTWAIT, MSG_TRUNC, SockaddrNl};
use core::sync::atomic::Ordering::Relaxed;

/// A receive this large lets the kernel build dump parts of up to 32 KiB; frames with less room get them cut.
const DUMP_PART: usize = 32 << 10;

/// Messages of so many bytes on average are received apart from their frames: shorter ones gain nothing by that.
const LONG: usize = 512;

/// So many bytes are received apart from their frames by one call, if it is more than one message: they shall be in a near cache still.
const MOST_APART: usize = 64 << 10;

/// Dump parts that one run may take from in front of what the client's sends have queued behind them.
const MOST_SET_ASIDE: u32 = 4;

impl<S: Socket> Pump<'_, S> {
    /// Receives one batch.
    pub(super) fn batch(&self) -> Step {
        let store = self.endpoint.store(self.control);
        let dumping = self.control.has(flag::DUMPING);
        let asking = || matches!(self.context, Context::Send | Context::Recv);
        if store.used() >= SOFT_LIMIT || store.unplaced() > 0 && !(dumping && asking()) {
            return self.blocked(false);
        }
        let room = self.ring.geometry().room() as usize;
        let (head, offer) = (self.head(), self.offer());
        let is_free = self.ring.status(head) == status::UNUSED;
        let start = if is_free { head } else { self.ahead() };
        let free = if is_free && offer == 1 { 1 } else { ring::unused_run(self.ring, start, offer) as usize };
        if free == 0 {
            return self.blocked(true);
        }
        // Each receive makes the kernel produce the next part of a running dump, and parts larger than a frame are cut: take
        // them one by one, from contiguous memory. So is the first message while a doorbell is in the queue, which is likely to be
        // it and must not leave a gap in the ring; farther behind it is found by `take_in`.
        let dump = self.control.has(flag::DUMP) || dumping;
        // A dump that was begun so goes on so, whatever the frames hold: parts of it may wait in the store.
        if dump && room < DUMP_PART || dumping || self.control.has(flag::BELL) && !self.past_first.replace(true) {
            return self.one_private();
        }
        let expected = self.control.rx_len.load(Relaxed) as usize;
        let apart = expected >= LONG && room <= LARGEST_APART;
        let most = match (dump && self.context == Context::Send, apart) {
            (true, _) => 1,
            (false, true) => free.min((MOST_APART / expected).max(1)),
            (false, false) => free,
        };
        let received = match self.receive(start, most, apart) {
            Ok(n) => n,
            Err(error) => return self.failed(error),
        };
        self.take_in(start, received, apart);
        self.received.set(self.received.get() + received as u32);
        if self.end.get() == End::Answered {
            return Step::Stop;
        }
        let is_end = received < most && !socket::takes_singles();
        if is_end {
            self.end.set(End::Empty);
        }
        if is_end || dump && self.context == Context::Send { Step::Stop } else { Step::Moved }
    }

    /// How many messages to offer room for: the one that is expected; else one more than came the last time, so that as many
    /// take one call; then four times what this run has received.
    fn offer(&self) -> u32 {
        let offer = match (self.received.get(), self.request.get()) {
            (0, Some(_)) => return 1,
            (0, None) => self.control.rx_burst.load(Relaxed) + 1,
            (n, _) => n.saturating_mul(4),
        };
        offer.clamp(2, VLEN as u32)
    }

    /// Points the first `most` messages at the frames from `start` on, or `apart` from them, and receives. Everything else in the
    /// headers is as the last receive and [`Self::message`] have left it.
    fn receive(&self, start: u32, most: usize, apart: bool) -> Result<usize, Errno> {
        let scratch = self.endpoint.scratch();
        let mut pos = start;
        for i in 0..most {
            // SAFETY: `i` is below VLEN; the scratch memory belongs to the lock's holder.
            unsafe { (*(&raw mut (*scratch).iov).cast::<[IoVec; 2]>().add(i))[0].base = self.landing(i, pos, apart) };
            pos = self.ring.geometry().next(pos);
        }
        self.control.count(&self.control.counters.calls, 1);
        // SAFETY: the first `most` headers are initialised (`init_scratch`, `Endpoint::point_scratch` and above) and point to
        // live frames and scratch.
        unsafe {
            let msgs = (&raw mut (*scratch).msgs).cast::<MMsgHdr>();
            if most == 1 {
                // The single form is the cheaper one.
                (*msgs).len = self.sock.recv(&mut (*msgs).hdr, MSG_DONTWAIT)? as u32;
                return Ok(1);
            }
            self.sock.recv_batch(core::slice::from_raw_parts_mut(msgs, most))
        }
    }

    /// Where message `i` of a batch is received, whose frame is the one at `pos`: its first `room` bytes.
    fn landing(&self, i: usize, pos: u32, apart: bool) -> *mut u8 {
        if apart { self.endpoint.apart(i, self.ring.geometry().room() as usize) } else { self.ring.payload(pos) }
    }

    /// What the kernel said of message `i`. Makes its header ready for the next receive: the kernel writes the lengths.
    fn message(&self, i: usize) -> (Meta, usize) {
        let scratch = self.endpoint.scratch();
        // SAFETY: `i` is below VLEN; everything was written by the receive, which is over, and belongs to the lock's holder.
        unsafe {
            let msg = (&raw mut (*scratch).msgs).cast::<MMsgHdr>().add(i);
            let name = (&raw const (*scratch).names).cast::<SockaddrNl>().add(i).read();
            let control = (&raw const (*scratch).control).cast::<[u8; CONTROL_LEN]>().add(i);
            let used = (*msg).hdr.controllen.min(CONTROL_LEN);
            let control = core::slice::from_raw_parts(control.cast::<u8>(), used);
            let (len, flags) = ((*msg).len as usize, (*msg).hdr.flags);
            (*msg).hdr.namelen = size_of::<SockaddrNl>() as u32;
            (*msg).hdr.controllen = CONTROL_LEN;
            let meta = meta_of(&name, control, len, flags & MSG_TRUNC != 0);
            (Meta { at: i as u32, ..meta }, len)
        }
    }

    /// Whether the message in the frame at `pos` is the acknowledgement (or error) that `request` asks for.
    fn is_answer(&self, request: Request, pos: u32, meta: &Meta) -> bool {
        if meta.portid != 0 || (meta.hdr.len as usize) < NLMSG_HDRLEN {
            return false;
        }
        self.ring.frame(pos).head().is_some_and(|head| {
            let is_error = message::header(&head, 0).is_some_and(|m| m.kind == abi::NLMSG_ERROR);
            is_error && message::sequence(&head) == request.0
        })
    }

    /// Publishes what has its place, and moves the rest.
    fn take_in(&self, start: u32, received: usize, apart: bool) {
        let room = self.ring.geometry().room() as usize;
        self.control.count(&self.control.counters.rx_datagrams, received as u64);
        let (mut pos, mut in_place, mut sum) = (start, true, 0);
        for i in 0..received {
            let (meta, len) = self.message(i);
            let here = pos;
            pos = self.ring.geometry().next(pos);
            sum += len;
            if self.may_be_bell(&meta, len) && self.took_bell(&meta, self.gather(i, here, room, len, apart)) {
                // Its frame is the next message's.
                in_place = false;
                continue;
            }
            // Where frames are larger than anything that is taken whole, what is cut ends with the frame.
            in_place &= len <= room && meta.truncated == 0;
            if in_place && len > 0 && meta.extra == 0 {
                if apart {
                    // SAFETY: `len <= room` bytes of private memory.
                    unsafe { self.ring.write_payload(here, self.landing(i, here, true), len) };
                }
                if self.request.get().is_some_and(|request| self.is_answer(request, here, &meta)) {
                    self.end.set(End::Answered);
                }
                self.publish(here, &meta.hdr, status::VALID);
            } else if in_place {
                // SAFETY: the payload is readable for `len <= room` bytes, and the store lies elsewhere.
                unsafe { self.copy(here, &meta, self.landing(i, here, apart), len) };
            } else if meta.truncated != 0 {
                self.overrun(false);
            } else {
                // From here on nothing may be placed before everything is out of the frames: later messages still lie there.
                let bytes = self.gather(i, here, room, len, apart);
                if self.control.has(flag::DUMP) && message::ends_dump(bytes) {
                    self.control.set(flag::DUMP, false);
                }
                self.stash(&meta, bytes);
            }
        }
        self.control.rx_len.store((sum / received.max(1)) as u32, Relaxed);
        if !in_place {
            self.place_backlog();
        }
    }

    /// Brings a message of `len` bytes together: the frame's part, or what stands in for it, goes in front of the spilled one.
    fn gather(&self, i: usize, pos: u32, room: usize, len: usize, apart: bool) -> &[u8] {
        let spill = self.endpoint.spill(i);
        let len = len.min(LARGEST);
        // SAFETY: all inside the spill area of message `i`, whose spilled part begins behind the first `room` bytes; where it is
        // received apart `room` bytes were there for it.
        unsafe {
            bulk::copy(self.landing(i, pos, apart), spill, room.min(len));
            core::slice::from_raw_parts(spill, len)
        }
    }

    /// Receives one datagram by way of private memory: cut if it is a dump part, dropped if it is the doorbell.
    fn one_private(&self) -> Step {
        let dumping = self.control.has(flag::DUMPING);
        let may_go_on = !dumping || self.may_resume_dump();
        if !may_go_on
            && (!matches!(self.context, Context::Send | Context::Recv) || self.set_aside.get() >= MOST_SET_ASIDE)
        {
            return self.blocked(false);
        }
        let (meta, bytes) = match self.receive_private(LARGEST, 0) {
            Ok(part) => part,
            Err(error) => return self.failed(error),
        };
        if self.took_bell(&meta, bytes) {
            return Step::Moved;
        }
        self.control.count(&self.control.counters.rx_datagrams, 1);
        if meta.truncated != 0 {
            self.overrun(false);
            return Step::Moved;
        }
        if !is_dump_part(&meta, bytes) {
            self.pass_by(&meta, bytes);
            return Step::Moved;
        }
        let seen = message::survey(bytes);
        if seen.ends_dump {
            self.control.set(flag::DUMP, false);
        }
        if !dumping {
            // The first part: the kernel has made it in the client's own send.
            self.ingest(&meta, bytes, seen);
            let placed = self.endpoint.store(self.control).unplaced() == 0;
            self.control.set(flag::DUMPING, !(seen.ends_dump && placed));
            return if self.context == Context::Send { Step::Stop } else { Step::Moved };
        }
        self.ingest(&meta, bytes, seen);
        if !may_go_on {
            // What the client's sends have queued behind it must not wait for it.
            self.set_aside.set(self.set_aside.get() + 1);
        }
        Step::Moved
    }

    /// Takes in a message that is no dump part, past dump parts that wait for their time: 4.5 would not have made them yet.
    fn pass_by(&self, meta: &Meta, bytes: &[u8]) {
        let room = self.ring.geometry().room();
        let pos = self.ahead();
        let waiting = self.endpoint.store(self.control).unplaced() > 0 && self.control.has(flag::DUMPING);
        // Dump parts are all it may pass.
        let may_pass = waiting
            && self.ring.status(pos) == status::UNUSED
            && !self.endpoint.store(self.control).any_unplaced(|meta, bytes| !is_dump_part(meta, bytes));
        if may_pass {
            // Placed at once, whatever its size: nothing that comes later may pass it.
            if bytes.len() <= room as usize && !is_copied(meta, bytes.len(), false, room) {
                self.fill(pos, meta, bytes);
            } else {
                // SAFETY: a slice is readable, and not in the store.
                unsafe { self.copy(pos, meta, bytes.as_ptr(), bytes.len()) };
            }
        } else if waiting {
            self.stash(meta, bytes);
        } else {
            self.ingest(meta, bytes, Survey::default());
        }
    }
}
