//! Ring memory: the only raw accesses to what a client can write.
//!
//! The law here is vm-memory's: no reference or slice to shared memory, every word access atomic, payload only moved by
//! copies or handed to the kernel as an address. Whatever a client writes, at any time, a read returns *some* value once,
//! and the callers judge that copy.

use crate::abi::{FrameHdr, NL_MMAP_HDRLEN};
use crate::bulk;
use crate::geometry::Geometry;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

/// The frames of one ring, as the kernel role sees them. Two implementations: mapped memory, and an array for models.
pub trait Frames {
    /// Number of frames, at least 1.
    fn frame_nr(&self) -> u32;
    /// The status word, ordered before every later read of the frame (the kernel's `netlink_get_status`).
    fn status(&self, pos: u32) -> u32;
    /// Stores the status word, ordered after every earlier access to the frame (`netlink_set_status`).
    fn set_status(&self, pos: u32, status: u32);
    /// The position after `pos`.
    fn next(&self, pos: u32) -> u32 {
        if pos + 1 >= self.frame_nr() { 0 } else { pos + 1 }
    }
    /// The position before `pos`.
    fn prev(&self, pos: u32) -> u32 {
        if pos == 0 { self.frame_nr() - 1 } else { pos - 1 }
    }
}

/// Mapped frames: a geometry and the address of at least `geometry.len()` bytes.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    base: *mut u8,
    geometry: Geometry,
}

// SAFETY: a RingMemory is an address and numbers; every access through it is atomic or a copy of bytes that no Rust
// reference covers, so threads may share it.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// # Safety
    /// - `base` is a multiple of 4, and `geometry.len()` bytes behind it stay mapped readable and writable for as long as
    ///   this value or a copy of it is used
    /// - no Rust reference to those bytes exists in that time
    pub unsafe fn new(base: *mut u8, geometry: Geometry) -> RingMemory {
        RingMemory { base, geometry }
    }

    /// The shape of the ring.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Where the ring begins.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// The frame at `pos`.
    #[inline]
    pub fn frame(&self, pos: u32) -> Frame<'_> {
        // SAFETY: `Geometry::offset` yields a frame inside the mapping (`new`).
        Frame { at: unsafe { self.base.add(self.geometry.offset(pos)) }, room: self.geometry.room(), ring: PhantomData }
    }

    #[inline]
    fn word(&self, pos: u32, index: usize) -> &AtomicU32 {
        self.frame(pos).word(index)
    }

    /// Writes the five words behind the status.
    #[inline]
    pub fn write_header(&self, pos: u32, hdr: &FrameHdr) {
        self.frame(pos).write_header(hdr);
    }

    /// Reads the five words behind the status.
    pub fn read_header(&self, pos: u32) -> FrameHdr {
        let word = |index| self.word(pos, index).load(Ordering::Relaxed);
        FrameHdr { len: word(1), group: word(2), pid: word(3), uid: word(4), gid: word(5) }
    }

    /// Address of the payload, `geometry().room()` bytes, for a system call or a copy.
    #[inline]
    pub fn payload(&self, pos: u32) -> *mut u8 {
        self.frame(pos).payload()
    }

    /// Copies `len` bytes from `from` to the payload; what does not fit is left out.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes and outside this ring.
    pub unsafe fn write_payload(&self, pos: u32, from: *const u8, len: usize) {
        let len = len.min(self.geometry.room() as usize);
        // SAFETY: the destination is `room()` bytes of the frame; the source is the caller's duty.
        unsafe { bulk::copy(from, self.payload(pos), len) }
    }

    /// Copies up to `len` bytes from offset `at` of the payload on, never more than the frame holds, to `to`.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes and outside this ring.
    pub unsafe fn read_payload_at(&self, pos: u32, at: usize, to: *mut u8, len: usize) {
        let room = self.geometry.room() as usize;
        let at = at.min(room);
        // SAFETY: `at` and what is left behind it lie inside the frame; the destination is the caller's duty.
        unsafe { bulk::copy(self.payload(pos).add(at), to, len.min(room - at)) }
    }

    /// Copies up to `len` bytes of the payload, never more than the frame holds, to `to`.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes and outside this ring.
    pub unsafe fn read_payload(&self, pos: u32, to: *mut u8, len: usize) {
        let len = len.min(self.geometry.room() as usize);
        // SAFETY: the source is `room()` bytes of the frame; the destination is the caller's duty.
        unsafe { bulk::copy(self.payload(pos), to, len) }
    }
}

/// One frame of a ring, whose address is found once.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where a whole frame lies, inside the ring's mapping.
    at: *mut u8,
    room: u32,
    ring: PhantomData<&'a RingMemory>,
}

impl<'a> Frame<'a> {
    #[inline]
    fn word(self, index: usize) -> &'a AtomicU32 {
        // SAFETY: frames are at least 24 bytes and multiples of 4, and begin at one, and `index` is 0..=5 in this file: an
        // aligned word inside the frame. Others write it only atomically or from outside the Rust abstract machine (the client).
        unsafe { AtomicU32::from_ptr(self.at.cast::<u32>().add(index)) }
    }

    /// See [`Frames::status`].
    #[inline]
    pub fn status(self) -> u32 {
        // Acquire pairs with the client's release of the frame: our writes to it come after its last reads.
        self.word(0).load(Ordering::Acquire)
    }

    /// See [`Frames::set_status`].
    #[inline]
    pub fn set_status(self, status: u32) {
        // Release: header and payload are there before the client can see the status (protocol.md, I3).
        self.word(0).store(status, Ordering::Release);
    }

    /// `nm_len` as it is at this instant. Read it once and judge the copy.
    #[inline]
    pub fn len_word(self) -> u32 {
        self.word(1).load(Ordering::Relaxed)
    }

    /// Writes the five words behind the status.
    #[inline]
    pub fn write_header(self, hdr: &FrameHdr) {
        for (index, value) in [hdr.len, hdr.group, hdr.pid, hdr.uid, hdr.gid].into_iter().enumerate() {
            self.word(index + 1).store(value, Ordering::Relaxed);
        }
    }

    /// Address of the payload, for a system call or a copy.
    #[inline]
    pub fn payload(self) -> *mut u8 {
        // SAFETY: a frame has at least NL_MMAP_HDRLEN bytes and lies inside the mapping; one past it is in bounds.
        unsafe { self.at.add(NL_MMAP_HDRLEN as usize) }
    }

    /// A copy of the payload's first bytes, if the frame has room for so many.
    #[inline]
    pub fn head<const N: usize>(self) -> Option<[u8; N]> {
        if (self.room as usize) < N {
            return None;
        }
        // SAFETY: `N` bytes of the payload; a copy of bytes that no reference covers.
        Some(unsafe { self.payload().cast::<[u8; N]>().read() })
    }
}

impl Frames for RingMemory {
    #[inline]
    fn frame_nr(&self) -> u32 {
        self.geometry.frame_nr()
    }
    #[inline]
    fn status(&self, pos: u32) -> u32 {
        self.frame(pos).status()
    }
    #[inline]
    fn set_status(&self, pos: u32, status: u32) {
        self.frame(pos).set_status(status);
    }
}
