//! Waits that a daemon's front answers by itself lose no wake-up (docs/device.md, "Waiting").
//!
//! The notes are the engine's own code (`src/waits.rs`). Restated are, step by step and in their order, the front around them
//! (`File::answers`), the worker (`Pump::publish`, `Open::tell`), and a client whose wait is edge-triggered. Once it is told that
//! there is something, it looks, and then sleeps until it hears of news. A word
//! that is lost leaves it asleep for ever, which loom calls a deadlock. The two steps that the argument rests on are turned around
//! once each, to show that the model would notice: the worker looks at the notes before it publishes, and the front writes its note
//! after it has answered.

use crate::atomic::AtomicU32;
use crate::explore;
use crate::waits::{Heard, Seen, Waits};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

/// What is turned around.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    WorkerLooksFirst,
    FrontNotesLast,
}

/// A ring of two frames: one is the client's, and stays so, the other free, and a message comes for it.
struct World {
    waits: Waits,
    /// Their messages, 0 for `UNUSED`.
    frames: [AtomicU32; 2],
    published: AtomicU32,
    /// Words that the kernel was given.
    words: Mutex<u32>,
    news: Condvar,
    wrong: Wrong,
}

impl World {
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "loom's threads are coroutines; its own Arc cannot unwind from a failure"
    )]
    fn new(wrong: Wrong) -> Arc<World> {
        let world = World {
            waits: Waits::default(),
            frames: [AtomicU32::new(1), AtomicU32::new(0)],
            published: AtomicU32::new(1),
            words: Mutex::new(0),
            news: Condvar::new(),
            wrong,
        };
        world.waits.attend(1);
        Arc::new(world)
    }

    /// The front: whether it answers "ready" by itself.
    fn answers(&self) -> bool {
        let look = || {
            let published = self.published.load(Acquire);
            Some(Seen { newest: published - 1, published, errors: 0 })
        };
        self.waits.answers(look, |seen| self.frames[seen.newest as usize].load(Acquire) != 0)
    }

    /// The thread that waits, until it has seen the second message. Where the front does not answer, the worker is asked, which is
    /// another model's part.
    fn waits(&self) {
        let words = *self.words.lock().unwrap();
        let notes_last = self.wrong == Wrong::FrontNotesLast;
        if !notes_last && !self.answers() {
            return;
        }
        let mut seen = self.frames[1].load(Acquire);
        if notes_last && !self.answers() {
            return;
        }
        while seen != 2 {
            let mut now = self.words.lock().unwrap();
            while *now == words {
                now = self.news.wait(now).unwrap();
            }
            drop(now);
            seen = self.frames[1].load(Acquire);
        }
    }

    /// The worker: the frame is filled, and whoever was told of less hears of it, if not at once.
    fn fills(&self) {
        let mut known = 0;
        let publish = || {
            self.frames[1].store(2, Release);
            self.published.store(2, Release);
        };
        let heard = if self.wrong == Wrong::WorkerLooksFirst {
            let heard = self.waits.heard(&mut known);
            publish();
            heard
        } else {
            publish();
            self.waits.heard(&mut known)
        };
        match heard {
            Heard::Nothing => {}
            // Of that frame, too: nobody has to be told.
            Heard::One(seen) if seen.published == 2 => {}
            Heard::One(_) | Heard::Several => {
                *self.words.lock().unwrap() += 1;
                self.news.notify_all();
            }
        }
    }
}

fn a_wait_beside_a_filled_ring(wrong: Wrong) {
    let world = World::new(wrong);
    let worker = thread::spawn({
        let world = world.clone();
        move || world.fills()
    });
    world.waits();
    worker.join().unwrap();
}

#[test]
fn whoever_the_front_has_answered_hears_of_news() {
    explore(4, || a_wait_beside_a_filled_ring(Wrong::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn not_where_the_worker_looks_before_it_publishes() {
    explore(4, || a_wait_beside_a_filled_ring(Wrong::WorkerLooksFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn nor_where_the_front_notes_after_it_has_answered() {
    explore(4, || a_wait_beside_a_filled_ring(Wrong::FrontNotesLast));
}

/// Two threads of the front never write notes at once; the worker reads while they do.
#[test]
fn what_was_seen_is_read_whole_or_not_at_all() {
    explore(3, || {
        let world = World::new(Wrong::Nothing);
        let front = thread::spawn({
            let world = world.clone();
            move || {
                for number in [1, 2] {
                    world.waits.answers(|| Some(Seen { newest: number, published: number, errors: number }), |_| true);
                }
            }
        });
        let (mut known, mut last) = (0, 0);
        for _ in 0..2 {
            if let Heard::One(Seen { newest, published, errors }) = world.waits.heard(&mut known) {
                assert!(newest == published && published == errors && newest > last);
                last = newest;
            }
        }
        front.join().unwrap();
        // What was not heard by now is.
        let before = known;
        let heard = world.waits.heard(&mut known);
        assert_eq!(heard == Heard::Nothing, before == 4);
        assert_eq!(known, 4);
    });
}
