//! The backing thread of a process, or a worker of a daemon: how much of a processor it takes.

use std::fs;
use std::time::Instant;

use crate::see::missed;

/// See the module.
#[derive(Debug)]
pub struct Thread {
    pid: u32,
    /// Its line in `/proc`, once it was found.
    line: Option<String>,
    /// Ticks of the clock that it had used, and when that was.
    before: Option<(u64, Instant)>,
    share: Option<f64>,
}

/// What the library calls its thread.
const NAME: &str = "nlmmap";

/// Whether a process is there, and no zombie.
pub fn is_alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(line) => !is_over(&line),
        // What cannot be looked at now is not dead for that.
        Err(error) => !missed::is_hidden(&error),
    }
}

fn is_over(line: &str) -> bool {
    let state = line.rfind(')').and_then(|at| line.as_bytes().get(at + 2));
    state.is_none_or(|state| matches!(state, b'Z' | b'X' | b'x'))
}

/// Fields 14 and 15: ticks in the program and in the kernel.
fn used(line: &str) -> Option<u64> {
    let mut fields = line.get(line.rfind(')')? + 2..)?.split(' ').skip(14 - 3);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user.saturating_add(system))
}

impl Thread {
    /// Of this process, which may have none.
    pub fn of(pid: u32) -> Thread {
        Thread { pid, line: None, before: None, share: None }
    }

    /// A process as a whole.
    pub fn whole(pid: u32) -> Thread {
        Thread { line: Some(format!("/proc/{pid}/stat")), ..Thread::of(pid) }
    }

    fn find(&self) -> Option<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        tasks.flatten().find_map(|task| {
            let path = task.path();
            let name = fs::read_to_string(path.join("comm")).ok()?;
            (name.trim_end() == NAME).then(|| path.join("stat").to_string_lossy().into_owned())
        })
    }

    /// Looks again; whether the process is alive.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.before.is_some_and(|(_, at)| at == now) {
            return true;
        }
        if self.line.is_none() {
            self.line = self.find();
        }
        let text = self.line.as_ref().and_then(|line| fs::read_to_string(line).ok());
        let Some(ticks) = text.as_deref().filter(|line| !is_over(line)).and_then(used) else {
            (self.line, self.before, self.share) = (None, None, None);
            return is_alive(self.pid);
        };
        if let Some((before, at)) = self.before {
            let seconds = (now - at).as_secs_f64();
            // A tick is a hundredth of a second, for whatever runs on Linux.
            self.share = (seconds > 0.0).then(|| ticks.saturating_sub(before) as f64 / 100.0 / seconds);
        }
        self.before = Some((ticks, now));
        true
    }

    /// The share of a processor that it took between the last two looks.
    pub fn share(&self) -> Option<f64> {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_behind_any_name() {
        let line = "7 (a) Z) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!((used(line), is_over(line)), (Some(42), false));
        assert!(is_over("7 (x) Z 1") && is_over(""));
        assert!(is_alive(std::process::id()) && !is_alive(u32::MAX));
    }
}
