//! The backing thread and client threads pass a socket's work to each other: however they meet, a message that comes after the
//! client's last call finds somebody who is woken for it.
//!
//! The states and their changes are the preload's own (`duty.rs`). Restated are `guard::{enter_wait, leave_wait, note_call}`,
//! `watch::arm_with` and the thread's loop, step by step, and epoll: one registration, changed under a lock, which looks at the
//! socket when it is changed and when a message arrives. A message that nobody takes leaves the thread asleep for ever, which
//! loom calls a deadlock.

use crate::duty::{ACTIVE, ARMED, DRIVING, Duty, EPOLLIN, EPOLLONESHOT, EPOLLOUT, OFF, events};
use crate::explore;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

#[derive(Default)]
struct Kernel {
    messages: u32,
    taken: bool,
    /// What the thread's instance has the socket registered for.
    events: u32,
    /// Whether it is on the list of those that have something.
    listed: bool,
}

impl Kernel {
    fn is_ready(&self) -> bool {
        self.events & EPOLLOUT != 0 || self.events & EPOLLIN != 0 && self.messages > 0
    }
}

struct World {
    duty: Duty,
    kernel: Mutex<Kernel>,
    change: Condvar,
    /// Whether somebody who registers looks at the state once more.
    looks_again: bool,
    /// Whether the thread, leaving a socket to a wait, looks whether the wait is still there.
    looks_for_wait: bool,
}

/// How the client's waits follow each other.
#[derive(Clone, Copy)]
enum Pace {
    Rare,
    Often,
}

impl World {
    /// Registered as this state asks for.
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's threads are coroutines; its own Arc cannot unwind from a failure"
    )]
    fn begin(state: u32, looks_again: bool, looks_for_wait: bool) -> Arc<World> {
        let duty = Duty::default();
        duty.state.store(state, Relaxed);
        let kernel = Mutex::new(Kernel { events: events(state), ..Kernel::default() });
        Arc::new(World { duty, kernel, change: Condvar::new(), looks_again, looks_for_wait })
    }

    fn arrive(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        kernel.messages += 1;
        kernel.listed |= kernel.events & EPOLLIN != 0;
        self.change.notify_all();
    }

    /// `epoll_ctl(EPOLL_CTL_MOD)`
    fn register(&self, events: u32) -> bool {
        let mut kernel = self.kernel.lock().unwrap();
        kernel.events = events;
        kernel.listed |= kernel.is_ready();
        self.change.notify_all();
        true
    }

    /// `epoll_wait`: whether there is something. `None` when the message has been taken. With `tick` it does not sleep long, and
    /// not at all while other sockets have something.
    fn sleep(&self, tick: bool, others: bool) -> Option<bool> {
        let mut kernel = self.kernel.lock().unwrap();
        loop {
            if kernel.taken {
                return None;
            }
            if std::mem::take(&mut kernel.listed) && kernel.is_ready() {
                if kernel.events & EPOLLONESHOT != 0 {
                    kernel.events = 0;
                }
                return Some(true);
            }
            if tick || others {
                drop(kernel);
                if !others {
                    thread::yield_now();
                }
                return Some(false);
            }
            kernel = self.change.wait(kernel).unwrap();
        }
    }

    /// `Endpoint::service`
    fn service(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        if kernel.messages > 0 {
            kernel.taken = true;
            self.change.notify_all();
        }
    }

    /// By who has just made the state this one.
    fn follow(&self, state: u32) {
        if self.looks_again {
            self.duty.follow(|events| self.register(events));
        } else {
            self.register(events(state));
        }
    }

    fn arm(&self) {
        self.duty.state.store(ARMED, SeqCst);
        self.follow(ARMED);
    }

    /// A wait that sleeps, or is about to.
    fn wait(&self, pace: Pace) {
        if self.duty.enter() {
            self.follow(OFF);
        }
        self.service();
        if self.duty.leave() {
            match pace {
                Pace::Often if self.duty.change(OFF, ACTIVE) => self.follow(ACTIVE),
                _ => self.arm(),
            }
        }
    }

    /// A wait that memory answers.
    fn note_call(&self) {
        self.duty.waits.fetch_add(1, Relaxed);
        if self.duty.state.load(Relaxed) == DRIVING && self.duty.hand_back() {
            self.follow(ACTIVE);
        }
    }

    /// `guard::thread::main`, until the message has been taken. Other sockets have it look `looks` times before it sleeps.
    fn back(&self, mut looks: u32) {
        let mut tick = true;
        while let Some(fired) = self.sleep(tick, looks > 0) {
            looks = looks.saturating_sub(1);
            if fired && self.duty.state.load(Relaxed) == ARMED {
                self.duty.fired(ACTIVE);
            }
            tick = match self.duty.state.load(Acquire) {
                ACTIVE => self.judge(),
                DRIVING => {
                    self.service();
                    false
                }
                _ => false,
            };
        }
    }

    /// `guard::thread::look` at a client that is expected to call.
    fn judge(&self) -> bool {
        let duty = &self.duty;
        let waits = duty.waits.load(Relaxed);
        let inside = || duty.inside.load(Relaxed) > 0;
        if inside() && duty.seen.swap(waits, Relaxed) == waits {
            if !self.looks_for_wait {
                duty.change(ACTIVE, OFF);
            } else if duty.idle() {
                self.arm();
            }
            return false;
        }
        if inside() || duty.seen.swap(waits, Relaxed) != waits {
            return true;
        }
        if !duty.change(ACTIVE, DRIVING) {
            return true;
        }
        self.follow(DRIVING);
        self.service();
        false
    }
}

fn beside(world: &Arc<World>, f: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

/// One client thread beside the backing thread, from each state.
fn one_client(state: u32, looks: u32, looks_again: bool, looks_for_wait: bool, calls: impl FnOnce(&World)) {
    let world = World::begin(state, looks_again, looks_for_wait);
    let thread = beside(&world, move |world| world.back(looks));
    calls(&world);
    world.arrive();
    thread.join().unwrap();
}

#[test]
fn a_wait_leaves_somebody_to_watch() {
    for state in [OFF, ARMED, ACTIVE, DRIVING] {
        explore(3, move || one_client(state, 2, true, true, |world| world.wait(Pace::Rare)));
    }
}

#[test]
fn so_do_waits_that_follow_each_other() {
    for state in [OFF, ARMED, ACTIVE, DRIVING] {
        explore(3, move || one_client(state, 3, true, true, |world| world.wait(Pace::Often)));
    }
}

#[test]
fn so_does_a_call_that_memory_answers() {
    for state in [ARMED, ACTIVE, DRIVING] {
        explore(3, move || one_client(state, 3, true, true, World::note_call));
    }
}

/// Two client threads wait for the same socket.
fn two_clients(looks_again: bool) {
    let world = World::begin(ARMED, looks_again, true);
    let thread = beside(&world, |world| world.back(0));
    let other = beside(&world, |world| world.wait(Pace::Rare));
    world.wait(Pace::Rare);
    other.join().unwrap();
    world.arrive();
    thread.join().unwrap();
}

#[test]
fn so_do_two_waits_beside_each_other() {
    explore(2, || two_clients(true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_second_look_at_the_state_two_waits_lose_it() {
    explore(2, || two_clients(false));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_it_a_call_loses_it() {
    explore(3, || one_client(DRIVING, 3, false, true, World::note_call));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_look_for_the_wait_it_is_left_to_nobody() {
    explore(3, || one_client(ACTIVE, 2, true, false, |world| world.wait(Pace::Rare)));
}
