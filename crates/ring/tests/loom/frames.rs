//! A frame changes hands by its status word alone: what was written before is read after, and never while it is written.
//!
//! The moves of the kernel role are restated around the engine's own look-ups, in the order of `Pump::publish` and of
//! `tx::gather` with `Endpoint::kick`; the orderings of the status word are those of `memory::RingMemory`.

use crate::explore;
use crate::lock::Lock;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Mutex};
use loom::thread;
use nlmmap_ring::abi::status;
use nlmmap_ring::memory::Frames;
use nlmmap_ring::ring;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

struct Cell {
    status: AtomicU32,
    len: AtomicU32,
    payload: UnsafeCell<u32>,
}

/// A ring whose payloads are one word each.
pub struct Cells(Vec<Cell>);

impl Cells {
    pub fn new(frames: u32) -> Cells {
        let cell = || Cell { status: AtomicU32::new(0), len: AtomicU32::new(0), payload: UnsafeCell::new(0) };
        Cells((0..frames).map(|_| cell()).collect())
    }

    /// Whoever owns the frame fills it.
    pub fn write(&self, pos: u32, value: u32) {
        let cell = &self.0[pos as usize];
        // SAFETY: loom checks that nobody else is at it.
        cell.payload.with_mut(|p| unsafe { *p = value });
        cell.len.store(value, Relaxed);
    }

    /// And hands it over.
    pub fn fill(&self, pos: u32, value: u32) {
        self.write(pos, value);
        self.set_status(pos, status::VALID);
    }

    /// Whoever owns the frame reads it.
    pub fn read(&self, pos: u32) -> u32 {
        let cell = &self.0[pos as usize];
        // SAFETY: as in `fill`.
        let value = cell.payload.with(|p| unsafe { *p });
        assert_eq!(cell.len.load(Relaxed), value, "header and payload are of one message");
        value
    }
}

impl Frames for Cells {
    fn frame_nr(&self) -> u32 {
        self.0.len() as u32
    }
    fn status(&self, pos: u32) -> u32 {
        self.0[pos as usize].status.load(Acquire)
    }
    fn set_status(&self, pos: u32, status: u32) {
        self.0[pos as usize].status.store(status, Release);
    }
}

/// Takes the place of the receive pump: fills the next frame if it is free.
fn receive(cells: &Cells, head: &mut u32, value: u32) -> bool {
    let pos = ring::forward_ring(cells, *head);
    if ring::unused_run(cells, pos, 1) == 0 {
        return false;
    }
    cells.fill(pos, value);
    *head = cells.next(pos);
    true
}

fn receive_all(cells: &Cells, values: std::ops::RangeInclusive<u32>) {
    let mut head = 0;
    for value in values {
        while !receive(cells, &mut head, value) {
            thread::yield_now();
        }
    }
}

fn wait_for(cells: &Cells, pos: u32) {
    while cells.status(pos) != status::VALID {
        thread::yield_now();
    }
}

/// A client that spins, over a ring that wraps.
#[test]
fn a_reader_sees_whole_messages_in_order() {
    explore(3, || {
        let cells = Arc::new(Cells::new(2));
        let pump = thread::spawn({
            let cells = cells.clone();
            move || receive_all(&cells, 1..=3)
        });
        let mut pos = 0;
        for want in 1..=3 {
            wait_for(&cells, pos);
            assert_eq!(cells.read(pos), want);
            cells.set_status(pos, status::UNUSED);
            pos = cells.next(pos);
        }
        pump.join().unwrap();
    });
}

/// The client hands its frames to workers, who release them in any order; a kept one meanwhile stands as `SKIP`.
#[test]
fn workers_release_in_any_order() {
    explore(2, || {
        let cells = Arc::new(Cells::new(2));
        let pump = thread::spawn({
            let cells = cells.clone();
            move || receive_all(&cells, 1..=3)
        });
        wait_for(&cells, 0);
        cells.set_status(0, status::SKIP);
        let worker = thread::spawn({
            let cells = cells.clone();
            move || {
                assert_eq!(cells.read(0), 1);
                cells.set_status(0, status::UNUSED);
            }
        });
        wait_for(&cells, 1);
        assert_eq!(cells.read(1), 2);
        cells.set_status(1, status::UNUSED);
        worker.join().unwrap();
        pump.join().unwrap();
        // Frame 0 if it was released in time, else frame 1, past it.
        let third: Vec<u32> = (0..2).filter(|pos| cells.status(*pos) == status::VALID).collect();
        assert_eq!(third.len(), 1);
        assert_eq!(cells.read(third[0]), 3);
    });
}

struct Transmit {
    cells: Cells,
    lock: Lock,
    head: AtomicU32,
    sent: Mutex<Vec<u32>>,
}

impl Transmit {
    /// A kick: everything `VALID` from the head on, under the lock.
    fn kick(&self, pid: u32) {
        let held = self.lock.hold(pid);
        for _ in 0..self.cells.frame_nr() {
            let pos = self.head.load(Relaxed);
            if self.cells.status(pos) != status::VALID {
                break;
            }
            let value = self.cells.read(pos);
            self.sent.lock().unwrap().push(value);
            self.cells.set_status(pos, status::UNUSED);
            self.head.store(self.cells.next(pos), Relaxed);
        }
        drop(held);
    }
}

/// One thread fills and kicks, over a ring that wraps, while another kicks.
#[test]
fn frames_leave_once_and_in_order() {
    explore(2, || {
        let cells = Cells::new(2);
        let tx = Arc::new(Transmit { cells, lock: Lock::new(), head: AtomicU32::new(0), sent: Mutex::new(Vec::new()) });
        let other = thread::spawn({
            let tx = tx.clone();
            move || tx.kick(2)
        });
        let mut pos = 0;
        for value in 1..=3 {
            while tx.cells.status(pos) != status::UNUSED {
                tx.kick(1);
            }
            tx.cells.fill(pos, value);
            pos = tx.cells.next(pos);
        }
        tx.kick(1);
        other.join().unwrap();
        assert_eq!(*tx.sent.lock().unwrap(), [1, 2, 3]);
    });
}
