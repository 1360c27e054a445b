//! Datagrams that are in no frame: an append-only log of records in shared memory, in order of arrival.
//!
//! ```text
//!   tail            place            end
//!    v                v               v
//!    [COPY] [dead] [COPY] [unplaced] [unplaced]
//! ```
//!
//! Records up to `place` have had their frame (`COPY`: they wait for the client's `recv`); the rest wait for a frame to
//! become free. Offsets count up and are taken modulo the capacity; a record never wraps. Only the holder of the receive
//! lock touches the store.

use crate::abi::FrameHdr;
use crate::bulk;
use crate::control::Control;
use crate::endpoint::{CONTROL_LEN, VLEN};
use crate::sys::{self, SockaddrNl};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const ALIGN: u64 = 64;
/// Bytes of store, mostly never touched.
pub const CAPACITY: usize = 16 << 20;
/// With this much in the store, further messages wait in the socket.
pub const SOFT_LIMIT: u64 = 1 << 20;
/// An empty store gives back the pages beyond this: a stream of copies goes through the same ones again and again.
const KEEP: u64 = SOFT_LIMIT;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Kind {
    Dead = 0,
    Unplaced = 1,
    Copy = 2,
}

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Meta {
    /// Length, group and credentials, as in a frame.
    pub hdr: FrameHdr,
    /// Port id of the sender.
    pub portid: u32,
    /// `nl_groups` of the sender's address.
    pub groups: u32,
    /// Whether the message was cut short by a socket filter or a limit on the way (`MSG_TRUNC`).
    pub truncated: u32,
    /// Bytes of its ancillary data, if that tells more than a frame can; 0 if not.
    pub extra: u32,
    /// Where that lies until the message is stored: which of the received messages' ancillary data ([`Store::beside`]).
    pub at: u32,
}

impl Meta {
    /// A message with this frame header from this sender.
    pub fn of(hdr: FrameHdr, name: &SockaddrNl) -> Meta {
        Meta { hdr, portid: name.portid, groups: name.groups, ..Meta::default() }
    }
}

/// Bytes of a message before its ancillary data: the next multiple of 8.
fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    kind: u32,
    /// Bytes to the next record, this header included.
    span: u32,
    meta: Meta,
}

const _: () = assert!(size_of::<Record>() as u64 <= ALIGN);

/// The store of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    control: &'a Control,
    base: *mut u8,
    cap: u64,
    /// Ancillary data of received messages, one [`CONTROL_LEN`] each, `VLEN` of them; or null.
    received: *const u8,
}

impl<'a> Store<'a> {
    /// # Safety
    /// `base` is readable and writable for `cap` bytes (a multiple of 64) while the store is used, by nobody but the holder
    /// of `control.lock`.
    pub unsafe fn new(control: &'a Control, base: *mut u8, cap: usize) -> Store<'a> {
        Store { control, base, cap: cap as u64 & !(ALIGN - 1), received: core::ptr::null() }
    }

    /// With the ancillary data that [`Meta::at`] speaks of.
    ///
    /// # Safety
    /// `received` is readable for [`VLEN`] times [`CONTROL_LEN`] bytes while the store is used.
    pub unsafe fn beside(self, received: *const u8) -> Store<'a> {
        Store { received, ..self }
    }

    /// The ancillary data of a message that is to be stored, if there is any to keep.
    fn extra(&self, meta: &Meta) -> &'a [u8] {
        if self.received.is_null() || meta.extra == 0 {
            return &[];
        }
        let (at, len) = (meta.at as usize % VLEN, (meta.extra as usize).min(CONTROL_LEN));
        // SAFETY: `beside`'s caller vouches for it; it changes with the next receive only.
        unsafe { core::slice::from_raw_parts(self.received.add(at * CONTROL_LEN), len) }
    }

    /// Bytes used, dead records between live ones included.
    pub fn used(&self) -> u64 {
        self.control.store_end.load(Relaxed).saturating_sub(self.control.store_tail.load(Relaxed))
    }

    /// Messages that wait for a frame.
    pub fn unplaced(&self) -> u32 {
        self.control.unplaced.load(Relaxed)
    }

    /// Whether a message of `len` bytes can be taken now.
    pub fn has_room(&self, len: usize) -> bool {
        // A record that would wrap leaves at most its own span unused at the end.
        self.used() + 2 * span(len) <= self.cap
    }

    fn at(&self, off: u64) -> *mut u8 {
        // SAFETY: reduced modulo the capacity and to where records begin, whatever the shared words say: inside the mapping.
        unsafe { self.base.add(((off % self.cap) & !(ALIGN - 1)) as usize) }
    }

    fn record(&self, off: u64) -> Record {
        // SAFETY: offsets of records are multiples of 64 below the capacity, itself a multiple of 64: in bounds, aligned.
        let mut r = unsafe { self.at(off).cast::<Record>().read() };
        // Offsets come from shared words; keep every record inside the store whatever they say.
        let left = (self.cap - ((off % self.cap) & !(ALIGN - 1))) as u32;
        r.span = r.span.clamp(ALIGN as u32, left) & !(ALIGN as u32 - 1);
        let most = r.span.saturating_sub(size_of::<Record>() as u32);
        r.meta.hdr.len = r.meta.hdr.len.min(most);
        r.meta.extra = r.meta.extra.min(most.saturating_sub(padded(r.meta.hdr.len as usize) as u32));
        r
    }

    fn set_kind(&self, off: u64, kind: Kind) {
        // SAFETY: as in `record`; `kind` is the first word.
        unsafe { self.at(off).cast::<u32>().write(kind as u32) };
    }

    /// Appends a message whose bytes lie in two parts. `false` when there is no room: the caller asked [`Self::has_room`].
    ///
    /// # Safety
    /// Each part is readable for its length and outside the store.
    pub unsafe fn push(&self, meta: &Meta, parts: [(*const u8, usize); 2]) -> bool {
        // SAFETY: the caller's duty.
        let pushed = unsafe { self.append(meta, parts, self.extra(meta), Kind::Unplaced) };
        if pushed {
            add(&self.control.unplaced, 1);
        }
        pushed
    }

    /// Appends a message that has its `COPY` frame already.
    ///
    /// # Safety
    /// As for [`Self::push`].
    pub unsafe fn push_copy(&self, meta: &Meta, parts: [(*const u8, usize); 2]) -> bool {
        // SAFETY: the caller's duty.
        let pushed = unsafe { self.append(meta, parts, self.extra(meta), Kind::Copy) };
        if pushed {
            add(&self.control.copies, 1);
            if self.unplaced() > 0 {
                self.control.store_passed.store(self.control.store_end.load(Relaxed), Relaxed);
            }
        }
        pushed
    }

    unsafe fn append(&self, meta: &Meta, parts: [(*const u8, usize); 2], extra: &[u8], kind: Kind) -> bool {
        let len: usize = parts.iter().map(|p| p.1).sum();
        let whole = if extra.is_empty() { len } else { padded(len) + extra.len() };
        if !self.has_room(whole) {
            return false;
        }
        let (c, need) = (self.control, span(whole));
        let mut off = c.store_end.load(Relaxed);
        let left = self.cap - off % self.cap;
        if left < need {
            self.write(off, &Record { kind: Kind::Dead as u32, span: left as u32, meta: Meta::default() });
            off += left;
        }
        let mut meta = *meta;
        meta.hdr.len = len as u32;
        (meta.extra, meta.at) = (extra.len() as u32, 0);
        self.write(off, &Record { kind: kind as u32, span: need as u32, meta });
        // SAFETY: `need` covers header and bytes and does not wrap; the parts are the caller's duty.
        unsafe {
            let first = self.at(off).add(size_of::<Record>());
            let mut to = first;
            for (from, n) in parts {
                bulk::copy(from, to, n);
                to = to.add(n);
            }
            if !extra.is_empty() {
                core::ptr::copy_nonoverlapping(extra.as_ptr(), first.add(padded(len)), extra.len());
            }
        }
        c.store_end.store(off + need, Relaxed);
        c.store_high.fetch_max(off + need - c.store_tail.load(Relaxed), Relaxed);
        true
    }

    fn write(&self, off: u64, record: &Record) {
        // SAFETY: as in `record`.
        unsafe { self.at(off).cast::<Record>().write(*record) };
    }

    fn find(&self, from: u64, kind: Kind) -> Option<(u64, Record)> {
        let (mut off, end) = (from, self.control.store_end.load(Relaxed));
        while off < end {
            let r = self.record(off);
            if r.kind == kind as u32 {
                return Some((off, r));
            }
            off += u64::from(r.span);
        }
        None
    }

    fn bytes(&self, off: u64, r: &Record) -> &'a [u8] {
        // SAFETY: `record` bounds the length by the span, which does not leave the store; the lock's holder is the only one
        // who writes here, and it does not while it reads.
        unsafe { core::slice::from_raw_parts(self.at(off).add(size_of::<Record>()), r.meta.hdr.len as usize) }
    }

    /// The ancillary data that was stored with a message.
    fn ancillary(&self, off: u64, r: &Record) -> &'a [u8] {
        let (from, len) = (padded(r.meta.hdr.len as usize), r.meta.extra as usize);
        if len == 0 {
            return &[];
        }
        // SAFETY: as in `bytes`: `record` bounds this length too.
        unsafe { core::slice::from_raw_parts(self.at(off).add(size_of::<Record>() + from), len) }
    }

    /// The first message that waits for a frame.
    pub fn first_unplaced(&self) -> Option<(Meta, &'a [u8])> {
        if self.unplaced() == 0 {
            return None;
        }
        let (off, r) = self.find(self.control.store_place.load(Relaxed), Kind::Unplaced)?;
        self.control.store_place.store(off, Relaxed);
        Some((r.meta, self.bytes(off, &r)))
    }

    /// Whether `f` holds for any message that waits for a frame.
    pub fn any_unplaced(&self, f: impl Fn(&Meta, &[u8]) -> bool) -> bool {
        let mut from = self.control.store_place.load(Relaxed);
        while let Some((off, r)) = self.find(from, Kind::Unplaced) {
            if f(&r.meta, self.bytes(off, &r)) {
                return true;
            }
            from = off + u64::from(r.span);
        }
        false
    }

    /// The message of [`Self::first_unplaced`] has its frame: it stays for `recv` (`COPY`), or is done with (`VALID`).
    pub fn placed(&self, copy: bool) {
        let c = self.control;
        let off = c.store_place.load(Relaxed);
        let r = self.record(off);
        // Messages that have passed it have their frames before it, so `recv` gives them before it: it goes behind them.
        let moved = copy && c.store_passed.load(Relaxed) > off && {
            let bytes = self.bytes(off, &r);
            // SAFETY: a record's bytes; what is appended lies behind every record.
            unsafe {
                let parts = [(bytes.as_ptr(), bytes.len()), (core::ptr::null(), 0)];
                self.append(&r.meta, parts, self.ancillary(off, &r), Kind::Copy)
            }
        };
        if moved {
            c.store_passed.store(c.store_end.load(Relaxed), Relaxed);
        }
        self.set_kind(off, if copy && !moved { Kind::Copy } else { Kind::Dead });
        c.store_place.store(off + u64::from(r.span), Relaxed);
        add(&c.unplaced, -1);
        if copy {
            add(&c.copies, 1);
        }
        if !copy || moved {
            self.reclaim();
        }
    }

    /// The first message that waits for the client's `recv`, and its ancillary data if it has [`Meta::extra`].
    pub fn first_copy(&self) -> Option<(Meta, &'a [u8], &'a [u8])> {
        if self.control.copies.load(Relaxed) == 0 {
            return None;
        }
        let (off, r) = self.find(self.control.store_tail.load(Relaxed), Kind::Copy)?;
        Some((r.meta, self.bytes(off, &r), self.ancillary(off, &r)))
    }

    /// The newest `n` messages that wait for the client's `recv`, in order.
    pub fn last_copies(&self, n: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut before = self.control.copies.load(Relaxed).saturating_sub(n);
        let (store, mut from) = (*self, self.control.store_tail.load(Relaxed));
        core::iter::from_fn(move || {
            loop {
                let (off, r) = store.find(from, Kind::Copy)?;
                from = off + u64::from(r.span);
                if before == 0 {
                    return Some(store.bytes(off, &r));
                }
                before -= 1;
            }
        })
    }

    /// The client has received the message of [`Self::first_copy`].
    pub fn received(&self) {
        if let Some((off, _)) = self.find(self.control.store_tail.load(Relaxed), Kind::Copy) {
            self.set_kind(off, Kind::Dead);
            add(&self.control.copies, -1);
            self.reclaim();
        }
    }

    /// Forgets every message.
    pub fn clear(&self) {
        let c = self.control;
        c.copies.store(0, Relaxed);
        c.unplaced.store(0, Relaxed);
        c.store_tail.store(c.store_end.load(Relaxed), Relaxed);
        self.reclaim();
    }

    fn reclaim(&self) {
        let c = self.control;
        let (mut off, end) = (c.store_tail.load(Relaxed), c.store_end.load(Relaxed));
        while off < end {
            let r = self.record(off);
            if r.kind != Kind::Dead as u32 {
                break;
            }
            off += u64::from(r.span);
        }
        c.store_tail.store(off, Relaxed);
        if off >= end {
            // Empty: begin anew at 0, so that a quiet endpoint keeps touching the same page.
            for word in [&c.store_tail, &c.store_place, &c.store_end, &c.store_passed] {
                word.store(0, Relaxed);
            }
            if c.store_high.swap(0, Relaxed) > KEEP {
                // SAFETY: the store is empty, nobody reads it; shared anonymous memory gives its pages back (MADV_REMOVE) and
                // reads as zeroes again. KEEP is whole pages and less than the capacity of any store that got beyond it.
                let _ = unsafe {
                    let from = self.base.add(KEEP as usize);
                    sys::advise(from, (self.cap - KEEP) as usize, linux_raw_sys::general::MADV_REMOVE)
                };
            }
        } else if c.store_place.load(Relaxed) < off {
            c.store_place.store(off, Relaxed);
        }
    }
}

fn span(len: usize) -> u64 {
    ((len + size_of::<Record>()) as u64 + ALIGN - 1) & !(ALIGN - 1)
}

fn add(word: &AtomicU32, n: i32) {
    word.store(word.load(Relaxed).saturating_add_signed(n), Relaxed);
}

#[cfg(test)]
mod tests;
