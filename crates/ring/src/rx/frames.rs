//! Messages that lie in memory of our own: into frames as far as they go, else into the store.

use super::{Context, Pump};
use crate::abi::{self, FrameHdr, status};
use crate::control::flag;
use crate::memory::Frames;
use crate::message::{self, NLMSG_GOODSIZE, Pieces, Survey};
use crate::socket::Socket;
use crate::store::Meta;
use core::iter::Peekable;
use core::sync::atomic::Ordering::Relaxed;

impl<S: Socket> Pump<'_, S> {
    /// Gives frames to stored messages, in order.
    pub(super) fn place_backlog(&self) {
        let store = self.endpoint.store(self.control);
        let strict = self.endpoint.strict.load(Relaxed);
        let room = self.ring.geometry().room();
        while let Some((meta, bytes)) = store.first_unplaced() {
            let dump = self.control.has(flag::DUMPING);
            if dump && !self.may_resume_dump() {
                break;
            }
            let pos = self.ahead();
            if self.ring.status(pos) != status::UNUSED {
                if dump && self.context == Context::Received {
                    self.refuse_dump();
                }
                break;
            }
            self.goes_on(dump, &meta, bytes);
            if bytes.len() <= room as usize && !is_copied(&meta, bytes.len(), strict, room) {
                self.fill(pos, &meta, bytes);
                store.placed(false);
            } else {
                self.publish(pos, &meta.hdr, status::COPY);
                store.placed(true);
            }
        }
    }

    /// Makes the frame at the head, which is `pos`, `COPY`, and keeps the message for the client's `recv`.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes and outside the store.
    pub(super) unsafe fn copy(&self, pos: u32, meta: &Meta, from: *const u8, len: usize) {
        let store = self.endpoint.store(self.control);
        // SAFETY: the caller's duty.
        if unsafe { store.push_copy(meta, [(from, len), (core::ptr::null(), 0)]) } {
            self.publish(pos, &FrameHdr { len: len as u32, ..meta.hdr }, status::COPY);
        } else {
            self.overrun(false);
        }
    }

    /// Takes in a datagram that lies in private memory, in the pieces its frames will have: into frames as far as they go, the rest
    /// into the store.
    pub(super) fn ingest(&self, meta: &Meta, bytes: &[u8], seen: Survey) {
        let mut pieces = self.pieces(meta, bytes, Some(seen));
        if self.endpoint.store(self.control).unplaced() == 0 {
            while let Some(piece) = pieces.peek()
                && self.place_one(meta, piece, seen.ends_dump)
            {
                pieces.next();
            }
        }
        if pieces.peek().is_some() {
            self.stash_all(meta, pieces);
            self.place_backlog();
        }
    }

    /// Puts a piece into the next frame, if it may and can have one. `may_end`: a dump's end may be in it.
    fn place_one(&self, meta: &Meta, bytes: &[u8], may_end: bool) -> bool {
        let room = self.ring.geometry().room();
        let pos = self.ahead();
        let dump = self.control.has(flag::DUMPING);
        if dump && !self.may_resume_dump()
            || self.ring.status(pos) != status::UNUSED
            || bytes.len() > room as usize
            || is_copied(meta, bytes.len(), false, room)
        {
            return false;
        }
        self.goes_on(dump && may_end, meta, bytes);
        self.fill(pos, meta, bytes);
        true
    }

    /// A message is about to have a frame; `may_end`: a dump is under way, whose end it may hold.
    fn goes_on(&self, may_end: bool, meta: &Meta, bytes: &[u8]) {
        self.went_on.set(true);
        // An acknowledgement that waits among the parts is an `NLMSG_ERROR` too, and ends nothing.
        if may_end && is_dump_part(meta, bytes) && message::ends_dump(bytes) {
            self.control.set(flag::DUMPING, false);
        }
    }

    /// Makes the frame at the head, which is `pos`, `VALID` with these bytes.
    pub(super) fn fill(&self, pos: u32, meta: &Meta, bytes: &[u8]) {
        // SAFETY: the bytes are private memory or the store, not the ring.
        unsafe { self.ring.write_payload(pos, bytes.as_ptr(), bytes.len()) };
        self.publish(pos, &FrameHdr { len: bytes.len() as u32, ..meta.hdr }, status::VALID);
    }

    /// Puts a datagram behind everything else that waits for a frame.
    pub(super) fn stash(&self, meta: &Meta, bytes: &[u8]) {
        self.stash_all(meta, self.pieces(meta, bytes, None));
    }

    fn stash_all<'b>(&self, meta: &Meta, pieces: impl Iterator<Item = &'b [u8]>) {
        let store = self.endpoint.store(self.control);
        for bytes in pieces {
            // SAFETY: a slice is readable, and not in the store.
            if !unsafe { store.push(meta, [(bytes.as_ptr(), bytes.len()), (core::ptr::null(), 0)]) } {
                self.overrun(false);
            }
        }
    }

    /// The pieces of a datagram. An empty one has none, but is a message all the same.
    fn pieces<'b>(
        &self,
        meta: &Meta,
        bytes: &'b [u8],
        seen: Option<Survey>,
    ) -> Peekable<impl Iterator<Item = &'b [u8]> + use<'b, S>> {
        let room = self.ring.geometry().room() as usize;
        let from_kernel = meta.portid == 0 && meta.hdr.group == 0;
        let pieces = match seen {
            Some(seen) => Pieces::of(bytes, room, from_kernel, seen),
            None => Pieces::new(bytes, room, from_kernel),
        };
        bytes.is_empty().then_some(bytes).into_iter().chain(pieces).peekable()
    }
}

/// Whether a message of `len` bytes travels by `COPY` though it fits: an empty one, since `VALID` without bytes is a frame that
/// was given up; one whose ancillary data tells more than a frame can, which `recv` hands out with it; in strict mode, where only dump parts are ever stored before they have a frame, parts for frames smaller than
/// the kernel's allocation for them.
pub(super) fn is_copied(meta: &Meta, len: usize, strict: bool, room: u32) -> bool {
    len == 0 || if strict { room < NLMSG_GOODSIZE } else { meta.extra > 0 }
}

/// Whether a datagram is part of a dump of ours.
pub(super) fn is_dump_part(meta: &Meta, bytes: &[u8]) -> bool {
    let multi = message::header(bytes, 0).is_some_and(|m| m.flags & abi::NLM_F_MULTI != 0);
    multi && meta.portid == 0 && meta.hdr.group == 0
}
