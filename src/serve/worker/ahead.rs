//! Full rings that are filled again before their clients ask.
//!
//! A client that was told of a full ring goes through it, and then asks about the next. Meanwhile a worker with nothing else to do
//! attends to the rings that were full: it fills those that have been gone through. And as it looks at them by itself, the front may answer
//! their waits where there is something in them, without asking.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rings that are looked at in one go.
pub const LOOKS: usize = 64;
/// From one look to the next, at first; then it doubles.
const FIRST_NAP: Duration = Duration::from_micros(100);
const LAST_NAP: Duration = Duration::from_millis(2);
/// So long after a wait was answered, or a ring was filled, somebody is at work.
const AT_WORK: Duration = Duration::from_millis(10);

/// The rings of a worker that it attends to.
pub struct Ahead {
    /// With what each is attended to by.
    line: VecDeque<(u64, u32)>,
    /// When somebody was last known to be at work.
    active: Instant,
    nap: Duration,
    number: u32,
}

impl Ahead {
    pub fn new() -> Ahead {
        Ahead { line: VecDeque::new(), active: Instant::now(), nap: FIRST_NAP, number: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Forgets those that are attended to no more; so there are never more than twice the open files.
    pub fn tidy(&mut self, opens: usize, is_attended: impl Fn(u64, u32) -> bool) {
        if self.line.len() > opens {
            self.line.retain(|(handle, number)| is_attended(*handle, *number));
        }
    }

    /// One more. What it is attended to by: never 0, and another one each time.
    pub fn attend(&mut self, handle: u64) -> u32 {
        self.number = self.number.wrapping_add(1).max(1);
        self.push((handle, self.number));
        self.number
    }

    /// One that is to be looked at again.
    pub fn push(&mut self, one: (u64, u32)) {
        self.line.push_back(one);
    }

    pub fn pop(&mut self) -> Option<(u64, u32)> {
        self.line.pop_front()
    }

    /// Somebody is at work.
    pub fn note(&mut self, now: Instant) {
        (self.active, self.nap) = (now, FIRST_NAP);
    }

    /// Whether nobody is any more.
    pub fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.active) > AT_WORK
    }

    /// When to look again.
    pub fn nap(&mut self) -> Duration {
        let nap = self.nap;
        self.nap = (nap * 2).min(LAST_NAP);
        nap
    }
}
