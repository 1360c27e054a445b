//! The backing thread never works with a number that is another socket's: it says which one it uses and then looks whether that
//! leads to the endpoint; a close leads it away and then looks whether it is used.

use crate::duty::Using;
use crate::explore;
use crate::words::{AtomicI32, AtomicU32};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};

const FD: i32 = 5;
const OURS: u32 = 1;

/// The three ways that a model can have to say it.
trait Says: Default + 'static {
    fn begin(&self);
    fn end(&self);
    fn is(&self) -> bool;
}

impl Says for Using {
    fn begin(&self) {
        Using::begin(self, FD);
    }
    fn end(&self) {
        Using::end(self);
    }
    fn is(&self) -> bool {
        Using::is(self, FD)
    }
}

/// [`Using`] with no more than release and acquire: the thread's look at the table may come before its word is seen.
#[derive(Default)]
struct Weak(AtomicI32);

impl Says for Weak {
    fn begin(&self) {
        self.0.store(FD + 1, Release);
    }
    fn end(&self) {
        self.0.store(0, Release);
    }
    fn is(&self) -> bool {
        self.0.load(Acquire) == FD + 1
    }
}

#[derive(Default)]
struct World<U> {
    using: U,
    /// The table's: whether the number leads to the endpoint.
    slot: AtomicU32,
    /// Whose the number is. The kernel changes it at the close.
    owner: UnsafeCell<u32>,
}

impl<U: Says> World<U> {
    /// `guard::thread::drive`, and `watch::register` for the thread.
    fn work(&self, looks_first: bool) {
        let leads = || self.slot.load(SeqCst) == OURS;
        let looked = !looks_first || leads();
        self.using.begin();
        if looked && (looks_first || leads()) {
            // SAFETY: loom checks that nobody changes it meanwhile.
            self.owner.with(|owner| assert_eq!(unsafe { *owner }, OURS, "a message of another's"));
        }
        self.using.end();
    }

    /// `fds::part`, and the close behind it.
    fn close(&self) {
        assert_eq!(self.slot.compare_exchange(OURS, 0, SeqCst, Acquire), Ok(OURS));
        while self.using.is() {
            thread::yield_now();
        }
        // SAFETY: as above.
        self.owner.with_mut(|owner| unsafe { *owner = 2 });
    }
}

fn close_beside_the_thread<U: Says>(looks_first: bool) {
    let world = Arc::new(World::<U> { slot: AtomicU32::new(OURS), owner: UnsafeCell::new(OURS), ..World::default() });
    let thread = thread::spawn({
        let world = world.clone();
        move || (0..2).for_each(|_| world.work(looks_first))
    });
    world.close();
    thread.join().unwrap();
}

#[test]
fn nobody_works_with_a_number_that_was_closed() {
    explore(4, || close_beside_the_thread::<Using>(false));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn a_look_before_the_word_comes_too_early() {
    explore(4, || close_beside_the_thread::<Using>(true));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn release_and_acquire_are_not_enough() {
    explore(4, || close_beside_the_thread::<Weak>(false));
}
