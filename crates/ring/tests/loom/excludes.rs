//! The lock: one holder at a time, nobody sleeps for ever, a dead holder's is taken over by one.

use crate::explore;
use crate::lock::Lock;
use crate::sys::DEAD;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// `threads` of them count once each, under the lock; loom sees two in it at once, and sleepers that nobody wakes.
fn contend(threads: u32, prepare: impl Fn(&Lock)) {
    let shared = Arc::new((Lock::new(), UnsafeCell::new(0)));
    prepare(&shared.0);
    let count = |shared: &(Lock, UnsafeCell<u32>), pid| {
        let held = shared.0.hold(pid);
        // SAFETY: the lock is held; loom checks that this is enough.
        shared.1.with_mut(|n| unsafe { *n += 1 });
        drop(held);
    };
    let others: Vec<_> = (2..=threads)
        .map(|pid| {
            let shared = shared.clone();
            thread::spawn(move || count(&shared, pid))
        })
        .collect();
    count(&shared, 1);
    others.into_iter().for_each(|t| t.join().unwrap());
    assert!(shared.0.is_free());
    // SAFETY: all other threads have ended.
    shared.1.with(|n| assert_eq!(unsafe { *n }, threads));
}

#[test]
fn two_threads() {
    explore(4, || contend(2, |_| {}));
}

#[test]
fn three_threads() {
    explore(2, || contend(3, |_| {}));
}

#[test]
fn a_dead_holder_has_one_heir() {
    explore(2, || contend(2, |lock| std::mem::forget(lock.hold(DEAD))));
}
