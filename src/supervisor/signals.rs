//! Signals, and whatever else interrupts a thread, while it waits in a stopped call.
//!
//! Where the kernel keeps them from ending the call (`Grip`), they are looked for, ever less often, and the call is ended for them as
//! the kernel would (docs/supervisor.md, "Interrupted calls").

use std::time::{Duration, Instant};

use super::engine::Supervisor;
use super::notify::{AGAIN, AGAIN_UNLESS_HANDLED, Grip, Outcome};
use super::wait::{Waiting, What};

const FIRST_NAP: Duration = Duration::from_millis(1);
const LAST_NAP: Duration = Duration::from_millis(50);
/// What waits so many times as long as a nap does not mind it.
const PART: u32 = 16;

/// When a thread that waits is to be looked at.
#[derive(Default)]
pub struct Looks {
    pub due: Option<Instant>,
    begun: Option<Instant>,
}

impl Looks {
    /// From now on.
    pub fn begin() -> Looks {
        let now = Instant::now();
        Looks { due: now.checked_add(FIRST_NAP), begun: Some(now) }
    }

    /// Whether it is time for one; then the next comes later.
    fn is_time(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let waited = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        self.due = now.checked_add((waited / PART).clamp(FIRST_NAP, LAST_NAP));
        true
    }
}

/// What the kernel tells of a thread's signals.
#[derive(Debug, Default, PartialEq, Eq)]
struct Signs {
    /// Something has interrupted its sleep, and it sleeps on so that only its death wakes it.
    is_interrupted: bool,
    /// Its own and its process's.
    pending: u64,
    blocked: u64,
    caught: u64,
}

impl Signs {
    fn of(tid: u32) -> Signs {
        parse(&std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default())
    }

    /// Whether a handler will run.
    fn will_be_handled(&self) -> bool {
        self.pending & !self.blocked & self.caught != 0
    }
}

fn parse(status: &str) -> Signs {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let set = |name: &str| line(name).and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    Signs {
        is_interrupted: line("State:").is_some_and(|state| state.trim().starts_with('D')),
        pending: set("SigPnd:") | set("ShdPnd:"),
        blocked: set("SigBlk:"),
        caught: set("SigCgt:"),
    }
}

impl Waiting {
    /// What these make of it. `mask`: the signals that stay blocked in the wait, if it has a say in that.
    fn ended_by(&self, signs: &Signs) -> Option<Outcome> {
        if let Some(mask) = self.mask {
            if signs.pending & !mask != 0 {
                // The kernel's own wait opens the mask, and ends at once.
                return Some(Outcome::Native);
            }
            if signs.pending & !signs.blocked != 0 {
                // It is blocked in the wait, and comes behind it.
                return None;
            }
        }
        signs.is_interrupted.then_some(match self.what {
            What::Poll(_) | What::Select(..) => AGAIN_UNLESS_HANDLED,
            // With a time limit the kernel makes none again (signal(7)).
            _ if self.until.is_some() => Outcome::Error(libc::EINTR),
            _ => AGAIN,
        })
    }
}

impl Supervisor {
    /// Whether calls that wait have to be looked at: for a mask, or since no signal ends them.
    pub(super) fn looks(&self, mask: Option<u64>) -> Looks {
        if mask.is_some() || self.listener.grip() != Grip::Loose { Looks::begin() } else { Looks::default() }
    }

    /// What has come for a thread that waits makes of its call.
    pub(super) fn interruption(&mut self, id: u64) -> Option<Outcome> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.call.id == id && !waiting.over)?;
        if !waiting.looks.is_time(Instant::now()) {
            return None;
        }
        let signs = Signs::of(waiting.call.tid);
        let outcome = waiting.ended_by(&signs)?;
        let (call, until) = (waiting.call, waiting.until);
        if outcome == AGAIN_UNLESS_HANDLED && !signs.will_be_handled() {
            // A stop, a tracer: its time goes on.
            self.paused.insert(call.tid, (call, until));
        }
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::notify::Call;

    const STATUS: &str = "Name:\tx\nState:\tD (disk sleep)\nSigPnd:\t0000000000000200\nShdPnd:\t0000000000002000\n\
                          SigBlk:\t0000000000000200\nSigIgn:\t0\nSigCgt:\t0000000000002000\n";

    fn waiting(what: What, mask: Option<u64>, until: Option<Instant>) -> Waiting {
        Waiting { call: Call::default(), tgid: 1, until, what, mask, looks: Looks::default(), over: false }
    }

    #[test]
    fn signals_are_read_as_the_kernel_tells_them() {
        let signs = parse(STATUS);
        assert_eq!(signs, Signs { is_interrupted: true, pending: 0x2200, blocked: 0x200, caught: 0x2000 });
        assert!(signs.will_be_handled());
        assert!(!parse(&STATUS.replace("SigCgt:\t0000000000002000", "SigCgt:\t0")).will_be_handled());
        assert_eq!(parse(""), Signs::default());
        assert!(!parse(&STATUS.replace('D', "S")).is_interrupted);
    }

    #[test]
    fn each_call_ends_as_the_kernel_ends_it() {
        let limit = Instant::now().checked_add(LAST_NAP);
        let interrupted = Signs { is_interrupted: true, ..Signs::default() };
        let poll = || What::Poll(Vec::new());
        assert_eq!(waiting(poll(), None, None).ended_by(&Signs::default()), None);
        assert_eq!(waiting(poll(), None, limit).ended_by(&interrupted), Some(AGAIN_UNLESS_HANDLED));
        assert_eq!(waiting(What::Receive, None, None).ended_by(&interrupted), Some(AGAIN));
        assert_eq!(waiting(What::Receive, None, limit).ended_by(&interrupted), Some(Outcome::Error(libc::EINTR)));
        // With a mask: one that is open in the wait, one that is blocked there, and none.
        let signs = |blocked| Signs { is_interrupted: true, pending: 0x2000, blocked, caught: 0 };
        assert_eq!(waiting(poll(), Some(0x200), None).ended_by(&signs(0x2000)), Some(Outcome::Native));
        assert_eq!(waiting(poll(), Some(0x2000), None).ended_by(&signs(0)), None);
        assert_eq!(waiting(poll(), Some(0x2000), None).ended_by(&signs(0x2000)), Some(AGAIN_UNLESS_HANDLED));
    }

    #[test]
    fn looks_become_rarer() {
        let mut looks = Looks::begin();
        let begun = looks.begun.unwrap();
        assert!(!looks.is_time(begun));
        for (waited, nap) in [(1, 1), (16, 1), (160, 10), (800, 50), (60_000, 50)] {
            let now = begun + Duration::from_millis(waited);
            assert!(looks.is_time(now) && looks.due == Some(now + Duration::from_millis(nap)), "{waited} ms");
            assert!(!looks.is_time(now));
        }
        assert!(!Looks::default().is_time(begun));
    }
}
