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
/// So long after that it looks without sleeping: to be woken would take about as long. (It counts from the beginning of a filling
/// ahead, and so is mostly over at its end.)
const AWAKE: Duration = Duration::from_micros(30);
/// After so many times in a row in which nobody has come meanwhile it sleeps at once ...
const MISSES: u32 = 4;
/// ... but for once in so many.
const TRIES: u32 = 16;

/// The rings of a worker that it attends to.
pub struct Ahead {
    /// With what each is attended to by.
    line: VecDeque<(u64, u32)>,
    /// When somebody was last known to be at work.
    active: Instant,
    nap: Duration,
    number: u32,
    /// It looks without sleeping, and nobody has come yet.
    awake: bool,
    /// How often in a row nobody has come.
    missed: u32,
}

impl Ahead {
    pub fn new() -> Ahead {
        Ahead { line: VecDeque::new(), active: Instant::now(), nap: FIRST_NAP, number: 0, awake: false, missed: 0 }
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
        if std::mem::take(&mut self.awake) {
            self.missed = 0;
        } else if self.missed >= MISSES {
            self.missed = if self.missed < MISSES + TRIES { self.missed + 1 } else { MISSES - 1 };
        }
        (self.active, self.nap) = (now, FIRST_NAP);
    }

    /// Whether to look again at once.
    pub fn stays_awake(&mut self, now: Instant) -> bool {
        if now.duration_since(self.active) < AWAKE {
            self.awake = self.missed < MISSES;
        } else if std::mem::take(&mut self.awake) {
            self.missed += 1;
        }
        self.awake
    }

    /// With no ring to look at nobody is waited for, and who comes then has not come in time.
    pub fn rest(&mut self) {
        self.awake = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it looks without sleeping after somebody was at work, and when that is over.
    fn stays_awake(ahead: &mut Ahead, now: &mut Instant) -> bool {
        *now += LAST_NAP;
        ahead.note(*now);
        let awake = ahead.stays_awake(*now);
        *now += AWAKE;
        assert!(!ahead.stays_awake(*now), "for a moment only");
        awake
    }

    #[test]
    fn it_stays_awake_for_those_who_come_at_once() {
        let (mut ahead, mut now) = (Ahead::new(), Instant::now());
        for _ in 0..100 {
            ahead.note(now);
            assert!(ahead.stays_awake(now));
            now += AWAKE / 2;
        }
        let mut awake = || stays_awake(&mut ahead, &mut now);
        assert!((0..MISSES).all(|_| awake()), "somebody may still come");
        // Each time that it tries it finds again that nobody does.
        let tries = (0..10 * TRIES).filter(|_| awake()).count();
        assert!((5..=10).contains(&tries), "{tries}");
        while !awake() {}
        // While it waits the last ring goes away: who comes afterwards was not waited for, and this was a try.
        now += LAST_NAP;
        while {
            ahead.note(now);
            !ahead.stays_awake(now)
        } {}
        ahead.rest();
        assert!(stays_awake(&mut ahead, &mut now) && !stays_awake(&mut ahead, &mut now));
        // One comes in time: then it waits for all of them.
        now += LAST_NAP;
        while {
            ahead.note(now);
            !ahead.stays_awake(now)
        } {}
        ahead.note(now);
        assert!((0..MISSES).all(|_| stays_awake(&mut ahead, &mut now)));
    }
}
