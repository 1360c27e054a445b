//! A fork child makes the tables its own, once, before any of its threads looks at them; and whatever its parent's other threads
//! were in the middle of, an endpoint is whole, over, or given up there.

use crate::explore;
use crate::mark::Mark;
use crate::users::Users;
use crate::words::AtomicU32;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::Ordering::Relaxed;

/// The child's first calls, by two of its threads. `careless`: the second one reads without asking the mark.
fn first_calls(careless: bool) {
    // As `MADV_WIPEONFORK` leaves the page.
    let child = Arc::new((Mark::default(), UnsafeCell::new(0)));
    let call = |(mark, tables): &(Mark, UnsafeCell<u32>), asks: bool| {
        if asks && !mark.is_ours() {
            // SAFETY: loom checks that nobody else is at it.
            mark.settle(|| tables.with_mut(|n| unsafe { *n += 1 }));
        }
        // SAFETY: as above.
        tables.with(|n| assert_eq!(unsafe { *n }, 1, "settled once"));
    };
    let other = thread::spawn({
        let child = child.clone();
        move || call(&child, !careless)
    });
    call(&child, true);
    other.join().unwrap();
}

#[test]
fn tables_are_settled_once_and_before_they_are_read() {
    explore(4, || first_calls(false));
}

#[test]
#[should_panic]
fn who_does_not_ask_reads_them_too_early() {
    explore(4, || first_calls(true));
}

/// What is copied of one endpoint, and of the slot that leads to it.
#[derive(Default)]
struct Copied {
    users: Users,
    live: AtomicU32,
    cookie: AtomicU32,
    slot: AtomicU32,
    /// The endpoint's memory: equal, and not zero, when it is whole.
    halves: [AtomicU32; 2],
}

impl Copied {
    fn both(&self) -> [u32; 2] {
        [self.halves[0].load(Relaxed), self.halves[1].load(Relaxed)]
    }

    fn set(&self, first: u32, second: u32) {
        self.halves[0].store(first, Relaxed);
        self.halves[1].store(second, Relaxed);
    }

    /// `fdtable::after_fork`, in the child. Answers whether a number leads to it.
    fn settle(&self) -> bool {
        let keeps = self.users.after_fork();
        if !keeps {
            self.cookie.store(0, Relaxed);
            self.live.store(0, Relaxed);
        }
        let live = self.live.load(Relaxed) != 0;
        let leads = live && self.slot.load(Relaxed) != 0 && self.cookie.load(Relaxed) != 0;
        if live && self.users.begin(|| false, || ()) {
            self.users.end(
                || !leads,
                || {
                    self.set(0, 0);
                    self.live.store(0, Relaxed);
                },
            );
        }
        if !keeps {
            assert!(!self.users.begin(|| false, || ()) && !self.users.claim(), "what is given up is never used again");
        }
        leads
    }
}

/// What a thread of the parent does with an endpoint, in its steps.
const STEPS: [fn(&Copied); 15] = [
    // Making one: `fdtable::allocate`, `adopt`.
    |e| assert!(e.users.claim()),
    |e| e.live.store(1, Relaxed),
    |e| e.users.unclaim(1),
    |e| e.set(7, 0),
    |e| e.set(7, 7),
    |e| e.cookie.store(7, Relaxed),
    |e| e.slot.store(1, Relaxed),
    |e| assert!(e.users.leave()),
    // A call that closes the last number.
    |e| assert!(e.users.begin(|| false, || ())),
    |e| e.slot.store(0, Relaxed),
    |e| assert!(e.users.leave() && e.users.claim()),
    |e| e.cookie.store(0, Relaxed),
    |e| e.set(0, 7),
    |e| {
        e.set(0, 0);
        e.live.store(0, Relaxed);
    },
    |e| e.users.unclaim(0),
];

#[test]
fn wherever_the_parent_was_an_endpoint_is_whole_or_nothing() {
    explore(0, || {
        let mut led = 0;
        for stopped in 0..=STEPS.len() {
            let child = Copied::default();
            STEPS.iter().take(stopped).for_each(|step| step(&child));
            if child.settle() {
                assert_eq!(child.both(), [7, 7], "after {stopped} steps: half an endpoint");
                led += 1;
            } else {
                let nothing = child.live.load(Relaxed) == 0 && child.cookie.load(Relaxed) == 0;
                assert!(nothing || child.both() == [0, 0], "after {stopped} steps: it is buried, or given up");
                assert_eq!(child.live.load(Relaxed), 0, "after {stopped} steps: nothing stays that no number leads to");
            }
        }
        assert_eq!(led, 3, "from its number's entry to its number's end");
    });
}
