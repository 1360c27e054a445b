//! The memory that messages are lent from.
//!
//! It is private to this process (`MAP_PRIVATE`): no other process, not even a forked child or a daemon, can change what a
//! program was lent. Two kinds of places for a message: a *frame* of the ring, and a *spill* area for one that is larger.
//!
//! # Why lending is sound
//!
//! - F1. A place is *free* or *lent*. A frame's state is its `nm_status` (`UNUSED`, `VALID`), a spill area's its bit in `spills`.
//! - F2. Only the receiving side (`&Receiver`, one thread at a time: [`RingSocket`](crate::RingSocket) is not `Sync`) makes a
//!   place lent, and only one that is free; so no place is lent twice.
//! - F3. Only dropping the one [`Lease`] of a place makes it free. A `Lease` cannot be copied, and borrows the `Frames`.
//! - F4. Places are written while they are free alone: by the kernel inside a receive call, which is given addresses of free
//!   places only, or by copies in this module.
//! - So the bytes behind a `Lease` do not change while it lives, and `&[u8]` of them is true. Making a place free is a release
//!   operation, and looking for free places an acquire one: the last read by whatever thread held the message comes before the
//!   next write. A lease that is forgotten (`mem::forget`) costs its place and nothing else.
//!
//! F1 to F3 and the orderings are [`places`](super::places), which loom runs in every order; F4 is this file and its callers.

use memmap2::{MmapOptions, MmapRaw};
use nlmmap_ring::abi::NL_MMAP_HDRLEN;
use nlmmap_ring::endpoint::LARGEST;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::memory::RingMemory;

use super::error::{Error, Result};
use super::places::Places;
pub(super) use super::places::{Place, SPILLS};

/// Frames and spill areas of one socket.
#[derive(Debug)]
pub(super) struct Frames {
    places: Places<RingMemory>,
    spill_memory: MmapRaw,
    _ring_memory: MmapRaw,
}

/// Where frames begin, so that payload does where a cache line does: the kernel copies to what lies 24 bytes behind a page's beginning
/// slowly on some processors (docs/performance.md, "Where frames begin").
const SHIFT: usize = 64 - NL_MMAP_HDRLEN as usize;

/// Private memory of zeroes; pages appear when they are touched.
fn memory(len: usize) -> Result<MmapRaw> {
    let map = MmapOptions::new().len(len).no_reserve_swap().map_anon();
    map.map(MmapRaw::from).map_err(|source| Error::System { what: "memory for the ring", source })
}

impl Frames {
    pub(super) fn new(geometry: Geometry) -> Result<Frames> {
        let ring_memory = memory(SHIFT + geometry.len())?;
        let spill_memory = memory(SPILLS * LARGEST)?;
        // SAFETY: so much is mapped, and as long as this value lives; no reference to it is ever made but those of `Lease`, to payload
        // that nobody writes (F4).
        let ring = unsafe { RingMemory::new(ring_memory.as_mut_ptr().add(SHIFT), geometry) };
        Ok(Frames { places: Places::new(ring), spill_memory, _ring_memory: ring_memory })
    }

    pub(super) fn ring(&self) -> &RingMemory {
        self.places.ring()
    }

    /// Bytes that a frame holds.
    pub(super) fn room(&self) -> usize {
        self.ring().geometry().room() as usize
    }

    /// The most that is taken of one message.
    pub(super) fn largest(&self) -> usize {
        self.room().max(LARGEST)
    }

    /// The first free frame from `from` on, without going around.
    #[inline]
    pub(super) fn free_frame(&self, from: u32) -> Option<u32> {
        self.places.free_frame(from)
    }

    /// The spill areas that are free.
    pub(super) fn free_spills(&self) -> u64 {
        self.places.free_spills()
    }

    /// Address of a spill area of [`LARGEST`] bytes.
    pub(super) fn spill(&self, index: u32) -> *mut u8 {
        self.spill_memory.as_mut_ptr().wrapping_add(index as usize % SPILLS * LARGEST)
    }

    /// Address of a place.
    fn address(&self, place: Place) -> *const u8 {
        match place {
            Place::Frame(pos) => self.ring().payload(pos),
            Place::Spill(index) => self.spill(index),
        }
    }

    /// Lends `len` bytes of a free place.
    ///
    /// # Safety
    /// The place is free (F1), holds as many bytes, and the caller is the receiving side (F2).
    pub(super) unsafe fn lend(&self, place: Place, len: usize) -> Lease<'_> {
        self.places.lend(place);
        Lease { frames: self, place, len }
    }
}

/// A place that is lent, and is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    frames: &'a Frames,
    place: Place,
    len: usize,
}

impl Lease<'_> {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the place holds `len` bytes (`Frames::lend`), mapped as long as the `Frames` that this borrows, and nobody writes
        // them before this is dropped (F4).
        unsafe { std::slice::from_raw_parts(self.frames.address(self.place), self.len) }
    }
}

impl Drop for Lease<'_> {
    #[inline]
    fn drop(&mut self) {
        self.frames.places.release(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ring;

    fn frames() -> Frames {
        Frames::new(Ring::frames(4, 1024).geometry().unwrap()).unwrap()
    }

    /// Lends a place after filling it.
    fn fill(frames: &Frames, place: Place, byte: u8, len: usize) -> Lease<'_> {
        let bytes = vec![byte; len];
        let to = match place {
            Place::Frame(pos) => frames.ring().payload(pos),
            Place::Spill(index) => frames.spill(index),
        };
        // SAFETY: the tests lend free places, with as many bytes as they hold.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, len);
            frames.lend(place, len)
        }
    }

    #[test]
    fn a_place_is_lent_once_and_free_again_after_that() {
        let frames = frames();
        let first = fill(&frames, Place::Frame(0), 1, 1000);
        assert_eq!(frames.free_frame(0), Some(1));
        let second = fill(&frames, Place::Frame(1), 2, 5);
        let spilled = fill(&frames, Place::Spill(3), 3, 2000);
        assert_eq!((frames.free_frame(0), frames.free_frame(3), frames.free_frame(4)), (Some(2), Some(3), None));
        assert_eq!(!frames.free_spills(), 1 << 3);
        drop(first);
        assert_eq!(frames.free_frame(0), Some(0));
        assert_eq!((second.bytes(), spilled.bytes()), (&[2; 5][..], &[3; 2000][..]));
        drop((second, spilled));
        assert_eq!((frames.free_frame(1), frames.free_spills()), (Some(1), u64::MAX));
    }

    /// What is read by one thread before it gives back is not what another writes after that.
    #[test]
    fn places_go_to_other_threads_and_come_back() {
        let frames = frames();
        let (sender, receiver) = std::sync::mpsc::channel::<(u8, Lease<'_>)>();
        std::thread::scope(|scope| {
            scope.spawn(move || receiver.into_iter().for_each(|(byte, lease)| assert_eq!(lease.bytes(), [byte; 100])));
            for number in 0..200u32 {
                let byte = number as u8;
                let place = loop {
                    let spill = frames.free_spills().trailing_zeros();
                    match frames.free_frame(0) {
                        _ if number.is_multiple_of(5) && spill < SPILLS as u32 => break Place::Spill(spill),
                        Some(pos) => break Place::Frame(pos),
                        None => std::thread::yield_now(),
                    }
                };
                sender.send((byte, fill(&frames, place, byte, 100))).unwrap();
            }
            drop(sender);
        });
        assert_eq!((frames.free_frame(0), frames.free_spills()), (Some(0), u64::MAX));
    }
}
