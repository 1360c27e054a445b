//! One endpoint's last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::see::seen::{Counts, Seen};

/// What is kept.
const KEPT: Duration = Duration::from_secs(60);
/// What was counted within this is of now.
const CURRENT: Duration = Duration::from_secs(5);
/// Looks that are kept: at the shortest interval there may be more than a minute has seconds.
const MOST: usize = 600;

/// In a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub received: f64,
    pub copies: f64,
    pub sent: f64,
    pub calls: f64,
    pub overruns: f64,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    counts: Counts,
    occupied: u32,
    blocked: bool,
}

impl Look {
    /// Messages given to the client: in frames, and as copies.
    fn given(&self) -> u64 {
        self.counts.rx_frames.saturating_add(self.counts.rx_copies)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    looks: VecDeque<Look>,
}

impl History {
    /// One more look.
    pub fn note(&mut self, at: Instant, seen: &Seen) {
        self.looks.push_back(Look { at, counts: seen.counts, occupied: seen.occupied, blocked: seen.blocked });
        while self.looks.len() > MOST || self.looks.front().is_some_and(|look| at - look.at > KEPT) {
            self.looks.pop_front();
        }
    }

    /// Between the last two looks.
    pub fn rates(&self) -> Rates {
        let mut last = self.looks.iter().rev();
        let (Some(now), Some(before)) = (last.next(), last.next()) else { return Rates::default() };
        let seconds = (now.at - before.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let (a, b) = (&now.counts, &before.counts);
        // A page may say anything: what has fallen did not happen.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            received: rate(a.rx_frames, b.rx_frames),
            copies: rate(a.rx_copies, b.rx_copies),
            sent: rate(a.tx_frames, b.tx_frames),
            calls: rate(a.system_calls, b.system_calls),
            overruns: rate(a.overruns, b.overruns),
        }
    }

    /// Whether what is said of the frames that are filled is of now: the library looks at them when messages come or the client
    /// waits, and else not.
    pub fn is_current(&self) -> bool {
        let Some(now) = self.looks.back() else { return false };
        let recent = self.looks.iter().rev().take_while(|look| now.at - look.at <= CURRENT);
        now.occupied == 0
            || now.blocked
            || recent.into_iter().any(|look| look.counts.system_calls != now.counts.system_calls)
    }

    /// How long the oldest message that the client has not released has been in the ring, as far as looks tell: it was given
    /// between two of them, and the earlier one counts.
    pub fn lag(&self) -> Option<Duration> {
        let now = self.looks.back()?;
        if now.occupied == 0 || !self.is_current() {
            return None;
        }
        let oldest = now.given().saturating_sub(now.occupied.into());
        let before = self.looks.iter().rev().find(|look| look.given() <= oldest).or(self.looks.front())?;
        Some(now.at - before.at)
    }

    /// Messages both ways in each of `parts` of the last minute, the newest last.
    pub fn minute(&self, parts: usize) -> Vec<u64> {
        let mut all = vec![0u64; parts];
        let Some(now) = self.looks.back() else { return all };
        let part = KEPT.as_secs_f64() / parts.max(1) as f64;
        for (before, after) in self.looks.iter().zip(self.looks.iter().skip(1)) {
            let age = ((now.at - after.at).as_secs_f64() / part) as usize;
            let both = |look: &Look| look.given().saturating_add(look.counts.tx_frames);
            if let Some(place) = parts.checked_sub(age + 1).and_then(|at| all.get_mut(at)) {
                *place = place.saturating_add(both(after).saturating_sub(both(before)));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::see::seen;
    use nlmmap_ring::card::Record;

    fn looks(all: &[(u64, u64, u32)]) -> History {
        let (start, mut history) = (Instant::now(), History::default());
        for (second, frames, occupied) in all {
            let mut seen = seen::recorded(&Record::default());
            (seen.counts.rx_frames, seen.occupied) = (*frames, *occupied);
            seen.counts.system_calls = *frames;
            history.note(start + Duration::from_secs(*second), &seen);
        }
        history
    }

    #[test]
    fn rates_are_those_of_the_last_two_looks() {
        assert_eq!(looks(&[(0, 5, 0)]).rates(), Rates::default());
        assert_eq!(looks(&[(0, 0, 0), (1, 1000, 0), (3, 1500, 0)]).rates().received, 250.0);
        assert_eq!(looks(&[(0, 100, 0), (1, 0, 0)]).rates().received, 0.0);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_that_is_there() {
        assert_eq!(looks(&[(0, 0, 0), (1, 10, 0)]).lag(), None);
        // Ten came in each second; five are left of the last.
        assert_eq!(looks(&[(0, 0, 0), (1, 10, 10), (2, 20, 5)]).lag(), Some(Duration::from_secs(1)));
        // Nobody has read since the first.
        let stuck = [(0, 3, 0), (1, 10, 7), (2, 20, 17), (3, 20, 17)];
        assert_eq!(looks(&stuck).lag(), Some(Duration::from_secs(3)));
        // Nor has anything come, so that nobody has looked.
        let idle = [&stuck[..], &[(6, 20, 17), (9, 20, 17)]].concat();
        assert_eq!((looks(&stuck).is_current(), looks(&idle).is_current(), looks(&idle).lag()), (true, false, None));
    }

    #[test]
    fn the_minute_ends_now() {
        let history = looks(&[(0, 0, 0), (30, 7, 0), (59, 7, 0), (60, 10, 0), (61, 12, 0)]);
        let minute = history.minute(60);
        assert_eq!((minute.len(), minute.last(), minute[58], minute[28]), (60, Some(&2), 3, 0));
        assert_eq!(minute.iter().sum::<u64>(), 5, "what came before the looks that are kept is not shown");
        assert_eq!(looks(&[]).minute(3), [0, 0, 0]);
    }
}
