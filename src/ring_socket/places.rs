//! Which places of a ring are lent: the book-keeping behind [`frames`](super::frames), without the memory.
//!
//! It stands alone so that `cargo xtask loom` can run this very code in every order of a receiving thread and threads that give
//! back (`crates/ring/tests/loom/lending.rs`).

#[cfg(loom)]
use loom::sync::atomic::AtomicU64;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use nlmmap_ring::abi::status;
use nlmmap_ring::memory::Frames;

/// Spill areas: no more than fit one word.
pub const SPILLS: usize = 64;

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A frame's payload.
    Frame(u32),
    /// A spill area.
    Spill(u32),
}

/// The states of the frames of a ring and of [`SPILLS`] spill areas.
#[derive(Debug)]
pub struct Places<R> {
    ring: R,
    /// A bit for each spill area: set while it is free.
    spills: AtomicU64,
}

impl<R: Frames> Places<R> {
    /// All of them free: the frames are `UNUSED`.
    pub fn new(ring: R) -> Places<R> {
        Places { ring, spills: AtomicU64::new(u64::MAX) }
    }

    /// The ring whose frames they are.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// The first free frame from `from` on, without going around.
    pub fn free_frame(&self, from: u32) -> Option<u32> {
        // Acquire (`status`), as below: the last read by whoever held the message comes before the next write.
        (from..self.ring.frame_nr()).find(|&pos| self.ring.status(pos) == status::UNUSED)
    }

    /// The spill areas that are free.
    pub fn free_spills(&self) -> u64 {
        self.spills.load(Acquire)
    }

    /// Makes a free place lent. Only the receiving side does.
    pub fn lend(&self, place: Place) {
        match place {
            Place::Frame(pos) => self.ring.set_status(pos, status::VALID),
            // Whoever is to see it gets it by way of the lease.
            Place::Spill(index) => {
                self.spills.fetch_and(!(1 << index), Relaxed);
            }
        }
    }

    /// Makes a lent place free.
    pub fn release(&self, place: Place) {
        match place {
            // Release (`set_status`).
            Place::Frame(pos) => self.ring.set_status(pos, status::UNUSED),
            Place::Spill(index) => {
                self.spills.fetch_or(1 << index, Release);
            }
        }
    }
}
