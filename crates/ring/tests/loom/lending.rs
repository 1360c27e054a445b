//! `RingSocket` lends places and gets them back from other threads: nobody reads what is being written, whatever the order.
//!
//! The book-keeping is the library's own code (`src/ring_socket/places.rs`). Restated is the receiving side around it: it looks for
//! free places as `Received::arm` does, writes them as the kernel would, and lends them as `Received::message` does.

use crate::explore;
use crate::frames::Cells;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, mpsc};
use loom::thread;
use nlmmap_ring::memory::Frames;

#[allow(dead_code, reason = "what the library needs of it besides")]
#[path = "../../../../src/ring_socket/places.rs"]
mod places;
use places::{Place, Places};

/// Frames of one word, and two of the spill areas.
struct Memory {
    places: Places<Cells>,
    spilled: [UnsafeCell<u32>; 2],
}

impl Memory {
    fn new(frames: u32) -> Arc<Memory> {
        let spilled = [UnsafeCell::new(0), UnsafeCell::new(0)];
        Arc::new(Memory { places: Places::new(Cells::new(frames)), spilled })
    }

    /// What `Frames::lend` is called for: the place is written while it is free, and lent after that.
    fn lend(this: &Arc<Memory>, place: Place, value: u32) -> Lease {
        match place {
            Place::Frame(pos) => this.places.ring().write(pos, value),
            // SAFETY: loom checks that nobody else is at it.
            Place::Spill(index) => this.spilled[index as usize].with_mut(|p| unsafe { *p = value }),
        }
        this.places.lend(place);
        Lease { memory: this.clone(), place, value }
    }

    fn free_spill(&self) -> Option<u32> {
        Some(self.places.free_spills().trailing_zeros()).filter(|&index| index < 2)
    }
}

/// As the library's, with what was written.
struct Lease {
    memory: Arc<Memory>,
    place: Place,
    value: u32,
}

impl Lease {
    fn check(&self) {
        let found = match self.place {
            Place::Frame(pos) => self.memory.places.ring().read(pos),
            // SAFETY: as above.
            Place::Spill(index) => self.memory.spilled[index as usize].with(|p| unsafe { *p }),
        };
        assert_eq!(found, self.value, "what is lent stays as it is");
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.check();
        self.memory.places.release(self.place);
    }
}

/// A frame given back by another thread is written again only after its last read.
#[test]
fn a_frame_comes_back_from_another_thread() {
    explore(3, || {
        let memory = Memory::new(1);
        let (to, from) = mpsc::channel::<Lease>();
        let holder = thread::spawn(move || {
            for _ in 0..2 {
                drop(from.recv().unwrap());
            }
        });
        for value in 1..=2 {
            let pos = loop {
                match memory.places.free_frame(0) {
                    Some(pos) => break pos,
                    None => thread::yield_now(),
                }
            };
            to.send(Memory::lend(&memory, Place::Frame(pos), value)).unwrap();
        }
        holder.join().unwrap();
        assert_eq!(memory.places.free_frame(0), Some(0));
    });
}

/// The same for spill areas, whose states share one word.
#[test]
fn spill_areas_come_back_from_two_threads() {
    explore(3, || {
        let memory = Memory::new(1);
        let first = Memory::lend(&memory, Place::Spill(0), 1);
        let second = Memory::lend(&memory, Place::Spill(1), 2);
        let holders = [first, second].map(|lease| thread::spawn(move || drop(lease)));
        let index = loop {
            match memory.free_spill() {
                Some(index) => break index,
                None => thread::yield_now(),
            }
        };
        drop(Memory::lend(&memory, Place::Spill(index), 3));
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(memory.places.free_spills(), u64::MAX);
    });
}

/// Out of order, by threads, while the receiving side goes on past what is held.
#[test]
fn leases_end_in_any_order() {
    explore(2, || {
        let memory = Memory::new(2);
        let held = Memory::lend(&memory, Place::Frame(0), 1);
        let other = Memory::lend(&memory, Place::Frame(1), 2);
        let early = thread::spawn(move || drop(other));
        let spilled = Memory::lend(&memory, Place::Spill(0), 3);
        let late = thread::spawn(move || {
            spilled.check();
            drop(held);
            drop(spilled);
        });
        // Whatever is free by now: never a place that somebody still reads.
        for value in 4..=5 {
            if let Some(pos) = memory.places.free_frame(0) {
                let again = Memory::lend(&memory, Place::Frame(pos), value);
                assert_ne!(memory.places.free_frame(0), Some(pos), "no place is lent twice");
                drop(again);
            }
        }
        early.join().unwrap();
        late.join().unwrap();
        assert!((0..memory.places.ring().frame_nr()).all(|pos| memory.places.free_frame(pos) == Some(pos)));
        assert_eq!(memory.places.free_spills(), u64::MAX);
    });
}
