//! A copy of what passes through an endpoint's rings, for somebody who has asked for it (observing.md, "Capture").
//!
//! Who asks makes a file, puts a number into [`crate::card::Card::tap`] and sets [`flag::TAPPED`], which the pump meets in a word
//! that it reads anyway. From then on the end of each run copies what has passed since the last into the file: a ring of records
//! that its reader empties. When that is full, copies are dropped and counted; the message itself never waits.
//!
//! The file can be written by its reader: no word of it leads out of it, whatever it says.

use crate::abi::{FrameHdr, status};
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::errno::Result;
use crate::memory::{Frames, RingMemory};
use crate::sys;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

/// Bytes of records.
pub const CAPACITY: usize = 4 << 20;
/// Bytes of the file: a page for [`Tap`], then the records.
pub const LEN: usize = sys::PAGE + CAPACITY;
/// Of a message no more than this is copied.
pub const SNAP: usize = 128 << 10;
/// Of the file's layout.
pub const VERSION: u32 = 1 << 16 | size_of::<Record>() as u32;

/// The file's first page.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tap {
    /// [`VERSION`]
    pub version: AtomicU32,
    /// The process that reads; 0 where somebody else sees to its end.
    pub reader: AtomicU32,
    /// Offset behind the last record; counts up, taken modulo [`CAPACITY`].
    pub head: AtomicU64,
    /// Offset of the first that was not read.
    pub tail: AtomicU64,
    /// Messages that found no room.
    pub dropped: AtomicU64,
    /// What had passed when it was last copied: [`Control::rx_published`], and the counters of frames sent and overruns.
    pub published: AtomicU32,
    /// Always 0.
    pub unused: AtomicU32,
    /// As above.
    pub tx_frames: AtomicU64,
    /// As above.
    pub overruns: AtomicU64,
}

impl Tap {
    /// Notes what has passed, which is not copied any more.
    pub fn begin(&self, control: &Control) {
        self.published.store(control.rx_published.load(Relaxed), Relaxed);
        self.tx_frames.store(control.counters.tx_frames.load(Relaxed), Relaxed);
        self.overruns.store(control.counters.overruns.load(Relaxed), Relaxed);
    }

    /// Its bytes, to read it into or to write it from.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: atomics without padding between them: all bytes are set, and any bytes are a Tap.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(self).cast(), size_of::<Tap>()) }
    }
}

/// Kinds of records.
pub mod kind {
    /// Nothing: the rest up to the end of the file.
    pub const PAD: u32 = 0;
    /// A frame that was given to the client.
    pub const RX: u32 = 1;
    /// A frame that the client has sent.
    pub const TX: u32 = 2;
    /// Messages were lost: [`super::Record::whole`] of them.
    pub const LOSS: u32 = 3;
}

/// A record's head, before the bytes of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// Bytes of the record, head and padding included: a multiple of 64.
    pub len: u32,
    /// See [`kind`].
    pub kind: u32,
    /// Bytes of the message that are here.
    pub kept: u32,
    /// Bytes of the message.
    pub whole: u32,
    /// Position in its ring.
    pub position: u32,
    /// `nm_status`
    pub status: u32,
    /// `nm_group`
    pub group: u32,
    /// `nm_pid`
    pub pid: u32,
    /// The error number of a frame that was not sent, or of a loss.
    pub error: u32,
    /// Always 0.
    pub unused: u32,
    /// `CLOCK_REALTIME` in nanoseconds.
    pub time: u64,
    /// Messages dropped before it.
    pub dropped: u64,
    /// Always 0.
    pub rest: u64,
}

const HEAD: usize = size_of::<Record>();
const _: () = assert!(size_of::<Tap>() == 4 * size_of::<u32>() + 5 * size_of::<u64>());
const _: () = assert!(HEAD == 64 && size_of::<Tap>() <= sys::PAGE && CAPACITY.is_multiple_of(HEAD));

/// Maps the file that the endpoint's card tells of, [`LEN`] bytes of it for good; null when there is none.
pub type Opener = fn(&Endpoint) -> *mut u8;

static OPENER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Says how the file is found.
pub fn open_by(opener: Opener) {
    OPENER.store(opener as *mut (), Relaxed);
}

/// One process's mapping of the file.
#[derive(Debug)]
pub struct Mapped {
    at: AtomicPtr<Tap>,
    /// [`crate::card::Card::tap`] when it was mapped.
    nr: AtomicU32,
}

impl Mapped {
    /// None yet.
    pub const fn new() -> Mapped {
        Mapped { at: AtomicPtr::new(core::ptr::null_mut()), nr: AtomicU32::new(0) }
    }

    /// Unmaps it.
    pub(crate) fn forget(&self) {
        let at = self.at.swap(core::ptr::null_mut(), Relaxed);
        if !at.is_null() {
            // SAFETY: mapped by the opener with this length; only the holder of the endpoint's lock uses it.
            unsafe { sys::unmap(at.cast(), LEN) };
        }
    }

    /// The file that is asked for now.
    fn current(&self, endpoint: &Endpoint) -> *mut Tap {
        let nr = endpoint.card().map_or(0, |card| card.tap.load(Acquire));
        if self.nr.swap(nr, Relaxed) != nr {
            self.forget();
            let opener = OPENER.load(Relaxed);
            if nr != 0 && !opener.is_null() {
                // SAFETY: stored by `open_by`, from a function of this very type.
                let opener = unsafe { core::mem::transmute::<*mut (), Opener>(opener) };
                self.at.store(opener(endpoint).cast(), Relaxed);
            }
        }
        self.at.load(Relaxed)
    }
}

impl Default for Mapped {
    fn default() -> Mapped {
        Mapped::new()
    }
}

/// The file while it is written.
struct Writer<'a> {
    tap: &'a Tap,
    records: *mut u8,
    time: u64,
}

/// What is copied.
enum Bytes<'a> {
    Frame(&'a RingMemory, u32),
    Here(&'a [u8]),
}

impl Writer<'_> {
    fn drop(&self, n: u32) {
        self.tap.dropped.store(self.tap.dropped.load(Relaxed).wrapping_add(n.into()), Relaxed);
    }

    /// `record.kept` bytes of a message, or of what there is of it.
    fn put(&self, record: Record, bytes: &Bytes<'_>) {
        let most = match bytes {
            Bytes::Frame(ring, _) => ring.geometry().room() as usize,
            Bytes::Here(bytes) => bytes.len(),
        };
        let kept = (record.kept as usize).min(most).min(SNAP);
        let need = (HEAD + kept).next_multiple_of(HEAD);
        let head = self.tap.head.load(Relaxed) & !(HEAD as u64 - 1);
        let at = head as usize % CAPACITY;
        let gap = if CAPACITY - at < need { CAPACITY - at } else { 0 };
        let used = head.wrapping_sub(self.tap.tail.load(Acquire));
        if used > CAPACITY as u64 || CAPACITY - (used as usize) < gap + need {
            return self.drop(1);
        }
        let write = |at: usize, record: Record| {
            // SAFETY: a multiple of the head's size below the capacity, itself one: inside the file, aligned.
            unsafe { self.records.add(at).cast::<Record>().write_volatile(record) };
        };
        if gap > 0 {
            write(at, Record { len: gap as u32, kind: kind::PAD, ..Record::default() });
        }
        let at = (at + gap) % CAPACITY;
        let dropped = self.tap.dropped.load(Relaxed);
        write(at, Record { len: need as u32, kept: kept as u32, time: self.time, dropped, ..record });
        // SAFETY: `need` bytes from `at` on are in the file, and hold head and message; a frame has room for `kept`.
        unsafe {
            let to = self.records.add(at + HEAD);
            match bytes {
                Bytes::Frame(ring, pos) => ring.read_payload(*pos, to, kept),
                Bytes::Here(bytes) => core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, kept),
            }
        }
        self.tap.head.store(head.wrapping_add((gap + need) as u64), Release);
    }

    fn sent(&self, control: &Control, ring: &RingMemory, became: u32) {
        let now = control.counters.tx_frames.load(Relaxed);
        let passed = now.wrapping_sub(self.tap.tx_frames.swap(now, Relaxed));
        let n = passed.min(ring.frame_nr().into()) as u32;
        self.drop(passed.wrapping_sub(n.into()) as u32);
        let failed = control.tx_failed.swap(0, Relaxed);
        let mut pos = ring.geometry().wrap(control.tx_head.load(Relaxed));
        (0..n).for_each(|_| pos = ring.prev(pos));
        for _ in 0..n {
            // One that the client has filled again is not what was sent.
            if matches!(ring.status(pos), status::UNUSED | status::RESERVED) {
                let FrameHdr { len, group, pid, .. } = ring.read_header(pos);
                let error = if failed >> 32 == u64::from(pos) + 1 { failed as u32 } else { 0 };
                let record = Record {
                    kind: kind::TX,
                    kept: len,
                    whole: len,
                    position: pos,
                    status: became,
                    group,
                    pid,
                    error,
                    ..Record::default()
                };
                self.put(record, &Bytes::Frame(ring, pos));
            } else {
                self.drop(1);
            }
            pos = ring.next(pos);
        }
    }

    fn received(&self, endpoint: &Endpoint, control: &Control, ring: &RingMemory) {
        let now = control.rx_published.load(Relaxed);
        let passed = now.wrapping_sub(self.tap.published.swap(now, Relaxed));
        let head = ring.geometry().wrap(control.rx_head.load(Relaxed));
        // Back over as many frames as have been filled; those that the head has stepped over are none of them.
        let (mut pos, mut n, mut copies) = (head, 0, 0);
        for _ in 0..ring.frame_nr() {
            if n == passed {
                break;
            }
            pos = ring.prev(pos);
            match ring.status(pos) {
                status::SKIP => continue,
                status::COPY => copies += 1,
                _ => {}
            }
            n += 1;
        }
        self.drop(passed - n);
        let mut kept = endpoint.store(control).last_copies(copies);
        while n > 0 {
            let status = ring.status(pos);
            if status != status::SKIP {
                n -= 1;
                let FrameHdr { len, group, pid, .. } = ring.read_header(pos);
                let record = Record {
                    kind: kind::RX,
                    kept: len,
                    whole: len,
                    position: pos,
                    status,
                    group,
                    pid,
                    ..Record::default()
                };
                match status {
                    status::COPY => self.put(record, &Bytes::Here(kept.next().unwrap_or(&[]))),
                    _ => self.put(record, &Bytes::Frame(ring, pos)),
                }
            }
            pos = ring.next(pos);
        }
    }
}

/// Copies what has passed since the last time. The caller holds the lock of the receive ring, or where there is none that of the
/// transmit ring.
#[cold]
#[inline(never)]
pub(crate) fn copy(endpoint: &Endpoint, control: &Control) {
    copy_as(endpoint, control, status::VALID);
}

/// As [`copy`]: frames of the transmit ring have been sent (`VALID`), or taken to be judged (`RESERVED`).
#[cold]
#[inline(never)]
pub(crate) fn copy_as(endpoint: &Endpoint, control: &Control, became: u32) {
    let at = endpoint.tap.current(endpoint);
    // SAFETY: null, or mapped for good until `forget`, which is the lock's holder's too; atomics only.
    let Some(tap) = (unsafe { at.as_ref() }).filter(|tap| tap.version.load(Acquire) == VERSION) else {
        return control.set(flag::TAPPED, false);
    };
    // SAFETY: the records lie behind the first page, in the same mapping.
    let records = unsafe { at.cast::<u8>().add(sys::PAGE) };
    let writer = Writer { tap, records, time: sys::wall_clock() };
    let dropped = tap.dropped.load(Relaxed);
    if let Some(ring) = endpoint.tx() {
        writer.sent(control, ring, became);
    }
    if let Some(ring) = endpoint.rx() {
        writer.received(endpoint, control, ring);
    }
    let now = control.counters.overruns.load(Relaxed);
    let lost = now.wrapping_sub(tap.overruns.swap(now, Relaxed));
    if lost > 0 {
        let error = control.last_error.load(Relaxed);
        writer.put(Record { kind: kind::LOSS, whole: lost as u32, error, ..Record::default() }, &Bytes::Here(&[]));
    }
    // A reader that was killed has not said that it is over.
    let reader = tap.reader.load(Relaxed);
    if reader != 0 && tap.dropped.load(Relaxed) != dropped && sys::is_dead(reader) {
        control.set(flag::TAPPED, false);
    }
}

impl Endpoint {
    /// From now on copies what passes into the file `fd`, [`LEN`] bytes of it for good, whatever the card says. `begins`: what
    /// has passed so far is not wanted. The caller is the only user of the endpoint.
    ///
    /// # Errors
    /// Those of `mmap`; nothing is copied then.
    pub fn tap_into(&self, fd: i32, begins: bool) -> Result<()> {
        self.tap_no_more();
        let Some(control) = self.control() else { return Ok(()) };
        let at = sys::map_fd(fd, LEN)?.cast::<Tap>();
        if begins {
            // SAFETY: mapped just now, for good; atomics only.
            unsafe { &*at }.begin(control);
        }
        self.tap.at.store(at, Relaxed);
        control.set(flag::TAPPED, true);
        Ok(())
    }

    /// Copies no more. The caller is the only user of the endpoint.
    pub fn tap_no_more(&self) {
        if let Some(control) = self.control() {
            control.set(flag::TAPPED, false);
        }
        self.tap.forget();
    }

    /// Goes on with the file of `other`, which is in the same state and will not be used any more.
    pub fn keep_tap_of(&self, other: &Endpoint) {
        self.tap.forget();
        self.tap.at.store(other.tap.at.swap(core::ptr::null_mut(), Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A writer over memory of its own, and that memory.
    fn with(f: impl Fn(&Writer<'_>, &dyn Fn(usize) -> Record)) {
        let tap = Tap::default();
        let mut records: Vec<u64> = std::vec![0; CAPACITY / 8];
        let base = records.as_mut_ptr().cast::<u8>();
        let writer = Writer { tap: &tap, records: base, time: 9 };
        // SAFETY: inside the memory; nobody writes meanwhile.
        let read = |at: usize| unsafe { base.add(at % CAPACITY).cast::<Record>().read() };
        f(&writer, &read);
    }

    fn rx(kept: usize) -> Record {
        Record { kind: kind::RX, kept: kept as u32, whole: kept as u32, ..Record::default() }
    }

    #[test]
    fn records_follow_each_other_around_the_end() {
        let big = std::vec![7u8; SNAP];
        with(|writer, read| {
            let mut tail = 0u64;
            for _ in 0..200 {
                writer.put(rx(SNAP), &Bytes::Here(&big));
                while tail < writer.tap.head.load(Relaxed) {
                    let record = read(tail as usize);
                    assert!(record.kind == kind::PAD || record.kept as usize == SNAP && record.time == 9, "{record:?}");
                    tail += u64::from(record.len);
                }
                writer.tap.tail.store(tail, Relaxed);
            }
            assert_eq!((writer.tap.dropped.load(Relaxed), tail > 4 * CAPACITY as u64), (0, true));
        });
    }

    #[test]
    fn what_finds_no_room_is_counted_and_nothing_is_overwritten() {
        // All of it takes the interpreter an hour.
        let room = if cfg!(miri) { 64 * HEAD } else { CAPACITY };
        with(|writer, read| {
            writer.tap.head.store((CAPACITY - room) as u64, Relaxed);
            for _ in 0..2 * room / HEAD {
                writer.put(rx(0), &Bytes::Here(&[]));
            }
            assert_eq!(writer.tap.head.load(Relaxed), CAPACITY as u64);
            assert_eq!(writer.tap.dropped.load(Relaxed), (room / HEAD) as u64);
            writer.tap.tail.store(HEAD as u64, Relaxed);
            writer.put(rx(0), &Bytes::Here(&[]));
            assert_eq!(read(CAPACITY).dropped, (room / HEAD) as u64, "the next that is written tells");
        });
    }

    #[test]
    fn hostile_words_lead_nowhere() {
        for (head, tail) in [(u64::MAX, 0), (3, u64::MAX), (u64::MAX - 7, u64::MAX - 63), (1 << 40, 5)] {
            with(|writer, _| {
                writer.tap.head.store(head, Relaxed);
                writer.tap.tail.store(tail, Relaxed);
                for _ in 0..100 {
                    writer.put(rx(usize::MAX >> 32), &Bytes::Here(&[1; 1000]));
                }
            });
        }
    }
}
