//! A raw look sees each frame, and a raw waiter that is woken by arrivals alone finds each (readiness.md, "What a raw look sees").
//!
//! Restated from `rx/level.rs` and `rx/bell.rs`, call by call and in their order, around the engine's own lock. The socket is a queue
//! of messages and doorbells that counts what arrives. The two orders that were there or would be simpler are tried as well, to show
//! that the model would notice.

use crate::explore;
use crate::frames::Cells;
use crate::lock::Lock;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use nlmmap_ring::abi::status;
use nlmmap_ring::memory::Frames;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// In what order a pump does its work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A message goes once its frame and a bell are there; what is published later has a bell behind it.
    LooksFirst,
    /// Receive, publish, ring.
    TakesFirst,
    /// Ring, receive, publish.
    RingsFirst,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    Message(u32),
    Bell,
}

#[derive(Default)]
struct Socket {
    queue: VecDeque<Item>,
    edges: u32,
}

struct World {
    lock: Lock,
    ring: Cells,
    /// Written under the lock alone.
    head: AtomicU32,
    socket: Mutex<Socket>,
    arrival: Condvar,
    order: Order,
}

impl World {
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's threads are coroutines; its own Arc cannot unwind from a failure"
    )]
    fn new(order: Order, frames: u32) -> Arc<World> {
        Arc::new(World {
            lock: Lock::new(),
            ring: Cells::new(frames),
            head: AtomicU32::new(0),
            socket: Mutex::new(Socket::default()),
            arrival: Condvar::new(),
            order,
        })
    }

    fn arrive(&self, item: Item) {
        let mut socket = self.socket.lock().unwrap();
        socket.queue.push_back(item);
        socket.edges += 1;
        self.arrival.notify_all();
    }

    /// `recv(MSG_PEEK)`
    fn front(&self) -> Option<Item> {
        self.socket.lock().unwrap().queue.front().copied()
    }

    fn receive(&self) -> Option<Item> {
        self.socket.lock().unwrap().queue.pop_front()
    }

    /// `SO_MEMINFO`: doorbells, and messages.
    fn queued(&self) -> (usize, usize) {
        let socket = self.socket.lock().unwrap();
        let bells = socket.queue.iter().filter(|item| **item == Item::Bell).count();
        (bells, socket.queue.len() - bells)
    }

    fn publish(&self, value: u32) {
        let head = self.head.load(Relaxed);
        self.ring.fill(head, value);
        self.head.store(head + 1, Relaxed);
    }

    fn is_readable(&self) -> bool {
        (0..self.head.load(Relaxed)).any(|pos| self.ring.status(pos) == status::VALID)
    }

    /// `Pump::run`
    fn pump(&self, pid: u32) {
        let _held = self.lock.hold(pid);
        let before = self.queued();
        if before.0 > 0 && before.1 == 0 {
            if !self.is_readable() {
                self.receive();
            }
            return;
        }
        match self.order {
            Order::LooksFirst => self.level(before.0),
            Order::TakesFirst => {
                let mut any = false;
                while let Some(item) = self.receive() {
                    if let Item::Message(value) = item {
                        self.publish(value);
                    }
                    any = true;
                }
                if any && self.is_readable() {
                    self.arrive(Item::Bell);
                }
            }
            Order::RingsFirst => {
                if before.1 > 0 {
                    self.arrive(Item::Bell);
                }
                let mut left = before.0;
                while self.queued().1 > 0 || left > 0 {
                    match self.receive() {
                        Some(Item::Message(value)) => self.publish(value),
                        _ => left = left.saturating_sub(1),
                    }
                }
            }
        }
    }

    fn level(&self, mut old: usize) {
        let mut is_told = true;
        loop {
            let (bells, others) = self.queued();
            if bells == 0 {
                // `first`
                let Some(Item::Message(value)) = self.front() else { return };
                self.publish(value);
                if self.is_readable() {
                    self.arrive(Item::Bell);
                    is_told = true;
                }
                self.receive();
                continue;
            }
            if others == 0 {
                break;
            }
            if old > 0 && bells == 1 && others > 1 {
                self.arrive(Item::Bell);
            }
            match self.receive() {
                Some(Item::Message(value)) => {
                    self.publish(value);
                    is_told = false;
                }
                _ => old = old.saturating_sub(1),
            }
        }
        // `ring_again`
        if !self.is_readable() {
            while self.queued().0 > 0 && self.queued().1 == 0 {
                self.receive();
            }
        } else if !is_told {
            self.arrive(Item::Bell);
        }
    }

    /// Sees each frame, and then the socket. Holds them all.
    fn look(&self, frames: u32) {
        for pos in 0..frames {
            while self.ring.status(pos) != status::VALID {
                thread::yield_now();
            }
            assert!(self.front().is_some(), "the socket is silent beside a frame");
        }
    }

    /// Sleeps until something arrives, and then takes what frames there are.
    fn wait(&self, frames: u32) {
        let (mut pos, mut seen) = (0, 0);
        while pos < frames {
            let mut socket = self.socket.lock().unwrap();
            while socket.edges == seen {
                socket = self.arrival.wait(socket).unwrap();
            }
            seen = socket.edges;
            drop(socket);
            while pos < frames && self.ring.status(pos) == status::VALID {
                assert_eq!(self.ring.read(pos), pos + 1);
                self.ring.set_status(pos, status::UNUSED);
                pos += 1;
            }
        }
    }
}

fn beside(world: &Arc<World>, f: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

/// Messages arrive, and a pump is woken by each.
fn messages(world: &World, frames: u32) {
    for value in 1..=frames {
        world.arrive(Item::Message(value));
        world.pump(2);
    }
}

fn somebody_looks(order: Order) {
    let world = World::new(order, 2);
    let looker = beside(&world, |world| world.look(2));
    messages(&world, 2);
    looker.join().unwrap();
}

fn somebody_waits(order: Order) {
    let world = World::new(order, 2);
    let waiter = beside(&world, |world| world.wait(2));
    messages(&world, 2);
    waiter.join().unwrap();
}

#[test]
fn a_raw_look_sees_each_frame() {
    explore(3, || somebody_looks(Order::LooksFirst));
}

#[test]
fn so_it_does_beside_two_pumps() {
    explore(2, || {
        let world = World::new(Order::LooksFirst, 2);
        let looker = beside(&world, |world| world.look(2));
        let other = beside(&world, |world| world.pump(3));
        messages(&world, 2);
        looker.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_raw_waiter_finds_each_frame() {
    explore(3, || somebody_waits(Order::LooksFirst));
}

#[test]
#[should_panic(expected = "silent beside a frame")]
fn received_first_a_frame_is_not_seen() {
    explore(3, || somebody_looks(Order::TakesFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn rung_first_a_frame_is_not_found() {
    explore(3, || somebody_waits(Order::RingsFirst));
}
