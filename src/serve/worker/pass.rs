//! When a worker may go on with work that lasts.
//!
//! Short work is done as it comes. Whoever has worked on for long asks the front, which lets fewer workers go on at a time
//! than there are processors (`workers/turns.rs`): so there is one left for those who only ask, and for their clients.

use std::time::{Duration, Instant};

/// In each of these times ...
const WINDOW: Duration = Duration::from_millis(16);
/// ... a worker goes on for so long without asking: an eighth of a processor.
const UNASKED: Duration = Duration::from_millis(2);
/// So long it goes on when it has asked.
pub const TURN: Duration = Duration::from_millis(5);

/// So long after its last request a client counts as one that asks.
pub const COMPANY: Duration = Duration::from_millis(100);

enum Pass {
    None,
    Asked,
    Until(Instant),
}

pub struct Passes {
    pass: Pass,
    window: Instant,
    /// Processor time of the window's slices.
    used: Duration,
}

/// What a worker whose line is not empty does.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    /// It has to ask the front first.
    Ask,
    /// It has asked.
    Wait,
}

impl Passes {
    pub fn new() -> Passes {
        Passes { pass: Pass::None, window: Instant::now(), used: Duration::ZERO }
    }

    /// Before a slice of work that lasts.
    pub fn next(&mut self, now: Instant) -> Next {
        match self.pass {
            Pass::Asked => return Next::Wait,
            Pass::Until(end) if now < end => return Next::GoOn,
            Pass::Until(_) => {}
            Pass::None => {
                if now.duration_since(self.window) >= WINDOW {
                    (self.window, self.used) = (now, Duration::ZERO);
                }
                if self.used < UNASKED {
                    return Next::GoOn;
                }
            }
        }
        self.pass = Pass::Asked;
        Next::Ask
    }

    /// Such a slice has taken so much processor time. (As long as it lasts, by the clock, others may have had the processor; and where
    /// a single send takes long, it takes more than a slice is meant to.)
    pub fn spent(&mut self, time: Duration) {
        self.used += time;
    }

    /// The front's answer. False when nobody waits for it any more.
    pub fn granted(&mut self, now: Instant) -> bool {
        let waits = self.waits();
        if waits {
            self.pass = Pass::Until(now + TURN);
        }
        waits
    }

    pub fn waits(&self) -> bool {
        matches!(self.pass, Pass::Asked)
    }

    /// Nothing is left to do. True when the front has to hear of it.
    pub fn done(&mut self) -> bool {
        !matches!(std::mem::replace(&mut self.pass, Pass::None), Pass::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_asks_and_short_work_does_not() {
        let mut passes = Passes::new();
        let start = passes.window;
        for _ in 0..3 {
            passes.window = start.checked_sub(WINDOW).unwrap();
            for _ in 0..20 {
                assert_eq!(passes.next(start), Next::GoOn);
                passes.spent(UNASKED / 20);
            }
        }
        assert_eq!([passes.next(start), passes.next(start)], [Next::Ask, Next::Wait]);
        assert!(passes.waits());
        assert!(passes.granted(start));
        assert_eq!(passes.next(start + TURN / 2), Next::GoOn);
        assert_eq!(passes.next(start + TURN), Next::Ask, "its time is over");
        assert!(passes.done() && !passes.done());
        assert!(!passes.granted(start), "an answer that came too late is none");
        assert!(!passes.waits() && !passes.done());
    }
}
