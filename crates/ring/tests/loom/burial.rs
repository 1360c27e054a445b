//! Endpoints are used again: nobody works with one that is being made or buried, or by a number that led to an earlier one, and
//! what is over is buried once and does not stay.

use crate::explore;
use crate::users::Users;
use crate::words::AtomicU32;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// One endpoint, and two slots of the table. All zeroes is an endpoint that stands for nothing.
#[derive(Default)]
struct World {
    users: Users,
    live: AtomicU32,
    /// Slots that lead to it.
    fds: AtomicU32,
    slots: [AtomicU32; 2],
    /// Which socket the endpoint's memory is of, 0 for none.
    socket: UnsafeCell<u32>,
    burials: AtomicU32,
    /// Leaves out the second look at the table.
    hasty: bool,
    /// Ends a probe without looking whether the endpoint is over.
    careless: bool,
}

impl World {
    /// With socket 1, by slot 0.
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's threads are coroutines; its own Arc cannot unwind from a failure"
    )]
    fn of_one(hasty: bool, careless: bool) -> Arc<World> {
        let world = World { hasty, careless, ..World::default() };
        assert!(world.allocate(1));
        world.insert(0);
        world.release();
        Arc::new(world)
    }

    fn is_over(&self) -> bool {
        self.fds.load(Acquire) == 0
    }

    fn release(&self) {
        self.users.end(|| self.is_over(), || self.bury());
    }

    fn bury(&self) {
        if self.live.load(Relaxed) != 0 {
            // SAFETY: claimed; loom checks that this is enough.
            self.socket.with_mut(|socket| unsafe { *socket = 0 });
            self.burials.fetch_add(1, Relaxed);
            self.live.store(0, Release);
        }
    }

    /// `fdtable::borrow`
    fn enter(&self, slot: usize) -> bool {
        loop {
            if self.slots[slot].load(Acquire) == 0 {
                return false;
            }
            if !self.users.begin(|| self.is_over(), || self.bury()) {
                thread::yield_now();
                continue;
            }
            if !self.hasty && self.slots[slot].load(SeqCst) == 0 {
                self.release();
                continue;
            }
            return true;
        }
    }

    /// A hook, by a number of socket `number`.
    fn call(&self, slot: usize, number: u32) {
        if self.enter(slot) {
            // SAFETY: in use; loom checks that this is enough.
            self.socket.with(|socket| assert_eq!(unsafe { *socket }, number, "another socket by this number"));
            self.release();
        }
    }

    /// `fds::part`
    fn close(&self, slot: usize) {
        if self.enter(slot) {
            if self.slots[slot].compare_exchange(1, 0, SeqCst, Relaxed).is_ok() {
                self.fds.fetch_sub(1, AcqRel);
            }
            self.release();
        }
    }

    /// `fdtable::allocate` and what `adopt` fills in. `false`: it is in use, and another would be made.
    fn allocate(&self, number: u32) -> bool {
        if !self.users.claim() {
            return false;
        }
        if self.live.load(Relaxed) != 0 {
            if self.careless {
                self.users.unclaim(0);
            } else {
                self.users.unclaim(1);
                self.release();
            }
            return false;
        }
        // SAFETY: claimed.
        self.socket.with_mut(|socket| unsafe { *socket = number });
        self.live.store(1, Release);
        self.users.unclaim(1);
        true
    }

    fn insert(&self, slot: usize) {
        self.fds.fetch_add(1, AcqRel);
        assert_eq!(self.slots[slot].swap(1, AcqRel), 0);
    }

    fn nothing_is_left(&self, sockets: u32) {
        assert_eq!(self.live.load(Acquire), 0, "an endpoint stays that nothing leads to");
        assert_eq!(self.burials.load(Relaxed), sockets, "each is buried once");
        assert!(self.users.claim(), "and nobody is at work with it");
    }
}

fn beside(world: &Arc<World>, f: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

/// One calls while another closes, and a third makes an endpoint for another socket of the same memory.
fn used_again(hasty: bool) {
    let world = World::of_one(hasty, false);
    let caller = beside(&world, |world| world.call(0, 1));
    let maker = beside(&world, |world| {
        if world.allocate(2) {
            world.insert(1);
            world.release();
            world.call(1, 2);
            world.close(1);
        }
    });
    world.close(0);
    caller.join().unwrap();
    maker.join().unwrap();
    let made = world.burials.load(Relaxed);
    assert!((1..=2).contains(&made));
    world.nothing_is_left(made);
}

#[test]
fn no_number_leads_to_what_is_buried_or_used_again() {
    explore(2, || used_again(false));
}

#[test]
#[should_panic(expected = "another socket by this number")]
fn without_the_second_look_one_does() {
    explore(2, || used_again(true));
}

/// Somebody looks for memory to use again while the last one leaves.
fn probed(careless: bool) {
    let world = World::of_one(false, careless);
    let prober = beside(&world, |world| {
        if world.allocate(2) {
            // Found buried already. Nothing leads to it: it ends at once.
            world.release();
        }
    });
    world.close(0);
    prober.join().unwrap();
    let made = world.burials.load(Relaxed);
    world.nothing_is_left(made.max(1));
}

#[test]
fn nothing_stays_because_somebody_looked_in() {
    explore(4, || probed(false));
}

#[test]
#[should_panic(expected = "an endpoint stays")]
fn with_a_careless_probe_it_does() {
    explore(4, || probed(true));
}

/// Two numbers, closed at once, and a call by each.
#[test]
fn the_last_of_two_numbers_ends_it() {
    explore(3, || {
        let world = World::of_one(false, false);
        world.insert(1);
        let other = beside(&world, |world| {
            world.call(1, 1);
            world.close(1);
        });
        world.close(0);
        world.call(1, 1);
        other.join().unwrap();
        world.nothing_is_left(1);
    });
}
