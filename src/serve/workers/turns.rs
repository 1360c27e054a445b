//! Which workers may go on with work that lasts: fewer than there are processors, user by user, and of each user in turn.
//!
//! It is not about shares of the processor, which are the scheduler's: clients who kept every processor busy would delay all
//! others' wake-ups by the scheduler's turns, which are milliseconds. A worker that does not keep to it does what any
//! program of its client's can do.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::serve::worker::pass::TURN;

/// Whoever holds a turn for so long is stopped, or in its client's hands: the next one does not wait for it.
pub const OVERDUE: Duration = Duration::from_millis(4 * TURN.as_millis() as u64);

pub struct Turns {
    most: usize,
    /// Workers that go on, and since when.
    going: Vec<(u64, Instant)>,
    /// Users in the order of their turns; each that has somebody waiting stands here once.
    users: VecDeque<u32>,
    waiting: HashMap<u32, VecDeque<u64>>,
}

impl Turns {
    /// For a machine with so many processors.
    pub fn new(processors: usize) -> Turns {
        Turns {
            most: processors.saturating_sub(1).max(1),
            going: Vec::new(),
            users: VecDeque::new(),
            waiting: HashMap::new(),
        }
    }

    /// A worker wants to go on. The turn that it may have had is over.
    pub fn ask(&mut self, worker: u64, uid: u32) {
        self.forget(worker);
        let line = self.waiting.entry(uid).or_default();
        if line.is_empty() {
            self.users.push_back(uid);
        }
        line.push_back(worker);
    }

    /// A worker is done, or gone.
    pub fn forget(&mut self, worker: u64) {
        self.going.retain(|(there, _)| *there != worker);
        self.waiting.retain(|uid, line| {
            line.retain(|there| *there != worker);
            if line.is_empty() {
                self.users.retain(|there| there != uid);
            }
            !line.is_empty()
        });
    }

    /// Whose turn it is now, if there is room.
    pub fn next(&mut self, now: Instant) -> Option<u64> {
        self.going.retain(|(_, since)| now.duration_since(*since) < OVERDUE);
        if self.going.len() >= self.most {
            return None;
        }
        let uid = self.users.pop_front()?;
        let line = self.waiting.get_mut(&uid)?;
        let worker = line.pop_front()?;
        if line.is_empty() {
            self.waiting.remove(&uid);
        } else {
            self.users.push_back(uid);
        }
        self.going.push((worker, now));
        Some(worker)
    }

    /// When somebody who waits may have to be let in although nobody has said that he is done.
    pub fn due(&self) -> Option<Instant> {
        if self.users.is_empty() { None } else { self.going.iter().map(|(_, since)| *since + OVERDUE).min() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_turns_and_so_have_their_workers() {
        let (mut turns, now) = (Turns::new(2), Instant::now());
        // Three workers of one user, one of another.
        for worker in [1, 2, 3] {
            turns.ask(worker, 7);
        }
        turns.ask(9, 8);
        let mut order = Vec::new();
        for _ in 0..8 {
            let worker = turns.next(now).unwrap();
            assert_eq!(turns.next(now), None, "one at a time on two processors");
            order.push(worker);
            turns.ask(worker, if worker == 9 { 8 } else { 7 });
        }
        assert_eq!(order, [1, 9, 2, 9, 3, 9, 1, 9]);
    }

    #[test]
    fn who_holds_a_turn_too_long_or_is_gone_holds_nobody() {
        let (mut turns, now) = (Turns::new(1), Instant::now());
        turns.ask(1, 7);
        turns.ask(2, 8);
        assert_eq!(turns.due(), None);
        assert_eq!(turns.next(now), Some(1));
        assert_eq!(turns.due(), Some(now + OVERDUE));
        assert_eq!(turns.next(now + OVERDUE / 2), None);
        assert_eq!(turns.next(now + OVERDUE), Some(2));
        turns.ask(3, 9);
        turns.forget(2);
        assert_eq!(turns.next(now + OVERDUE), Some(3));
        turns.ask(4, 9);
        turns.forget(4);
        turns.forget(3);
        assert_eq!((turns.next(now + OVERDUE), turns.due()), (None, None));
        assert!(turns.waiting.is_empty() && turns.users.is_empty() && turns.going.is_empty());
    }
}
