//! No wake-up is lost (readiness.md): a thread that sleeps on the real socket beside others that pump it.
//!
//! Restated from `wait::announce`, `poll_any` and `Pump::run`, step by step and in their order, around the engine's own lock. The
//! socket is a counter of messages and the doorbell; sleeping on it ends when there is either. A wake-up that is lost leaves the
//! waiter asleep for ever, which loom calls a deadlock. The two steps that the argument rests on are left out once each, to show
//! that the model would notice.

use crate::explore;
use crate::frames::Cells;
use crate::lock::Lock;
use crate::sys::AtomicU32;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use nlmmap_ring::abi::status;
use nlmmap_ring::memory::Frames;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

#[derive(Default)]
struct Socket {
    messages: u32,
    bell: bool,
}

struct World {
    lock: Lock,
    waiters: AtomicU32,
    /// One frame.
    ring: Cells,
    socket: Mutex<Socket>,
    arrival: Condvar,
    announces: bool,
    looks_at_lock: bool,
}

impl World {
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's threads are coroutines; its own Arc cannot unwind from a failure"
    )]
    fn new(announces: bool, looks_at_lock: bool) -> Arc<World> {
        Arc::new(World {
            lock: Lock::new(),
            waiters: AtomicU32::new(0),
            ring: Cells::new(1),
            socket: Mutex::new(Socket::default()),
            arrival: Condvar::new(),
            announces,
            looks_at_lock,
        })
    }

    fn is_readable(&self) -> bool {
        self.ring.status(0) == status::VALID
    }

    fn arrive(&self) {
        self.socket.lock().unwrap().messages += 1;
        self.arrival.notify_all();
    }

    /// `Pump::run`
    fn service(&self, pid: u32) {
        let held = self.lock.hold(pid);
        {
            // answer_bell
            let socket = self.socket.lock().unwrap();
            if socket.bell && socket.messages == 0 && self.is_readable() {
                drop(socket);
                drop(held);
                return;
            }
        }
        if self.ring.status(0) == status::UNUSED {
            let mut socket = self.socket.lock().unwrap();
            socket.bell = false;
            let taken = socket.messages > 0;
            socket.messages -= u32::from(taken);
            drop(socket);
            if taken {
                self.ring.fill(0, 1);
            }
        }
        // ring_bell
        if self.waiters.load(SeqCst) > 0 && self.is_readable() {
            self.socket.lock().unwrap().bell = true;
            self.arrival.notify_all();
        }
        drop(held);
    }

    /// `poll_any`, until there is something to read.
    fn wait(&self, pid: u32) {
        while !self.is_readable() {
            if self.announces {
                self.waiters.fetch_add(1, SeqCst);
            }
            if self.looks_at_lock && !self.lock.is_free() {
                drop(self.lock.hold(pid));
            }
            if !self.is_readable() {
                let mut socket = self.socket.lock().unwrap();
                while socket.messages == 0 && !socket.bell {
                    socket = self.arrival.wait(socket).unwrap();
                }
            }
            if self.announces {
                self.waiters.fetch_sub(1, SeqCst);
            }
            self.service(pid);
        }
    }
}

/// One waits; another thread's call finds the message, or not.
fn wait_beside_a_pump(announces: bool, looks_at_lock: bool) {
    let world = World::new(announces, looks_at_lock);
    let other = thread::spawn({
        let world = world.clone();
        move || {
            world.arrive();
            world.service(2);
        }
    });
    world.wait(1);
    other.join().unwrap();
    assert_eq!(world.ring.read(0), 1);
}

#[test]
fn no_wake_up_is_lost() {
    explore(3, || wait_beside_a_pump(true, true));
}

#[test]
fn nor_beside_two_pumps() {
    explore(2, || {
        let world = World::new(true, true);
        world.arrive();
        let others: Vec<_> = (2..=3)
            .map(|pid| {
                let world = world.clone();
                thread::spawn(move || world.service(pid))
            })
            .collect();
        world.wait(1);
        others.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// Two wait for one message that stays: both end.
#[test]
fn nor_among_two_waiters() {
    explore(2, || {
        let world = World::new(true, true);
        let other = thread::spawn({
            let world = world.clone();
            move || world.wait(2)
        });
        world.arrive();
        world.wait(1);
        other.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_announcement_one_is_lost() {
    explore(3, || wait_beside_a_pump(false, true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_look_at_the_lock_one_is_lost() {
    explore(3, || wait_beside_a_pump(true, false));
}
