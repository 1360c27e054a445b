//! `nlmmap run --summary`: stays beside the program, and says at its end what went through its rings.
//!
//! The program counts in files (docs/observing.md): what it has counted is there however it ends.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use nlmmap_ring::card::{TOTALS_LEN, Totals, VERSION};
use serde::Serialize;

use crate::see::cause::{Cause, causes};
use crate::see::missed;
use crate::see::place::{self, RUN};
use crate::see::seen::{self, Counts, Seen, family};

/// How the summary is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// So long what is just being counted is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where a command's endpoints are shown and added up.
pub struct Place {
    pub dir: PathBuf,
    form: Form,
    to: Option<File>,
}

/// Signals that are somebody's wish for the program.
const WISHES: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

impl Place {
    /// Makes it, and the file for the summary, so that no program runs in vain.
    ///
    /// # Errors
    /// The cause, in words.
    pub fn make(form: Form, to: Option<&Path>) -> Result<Place, String> {
        let to = to.map(|path| File::create(path).map_err(|e| format!("{}: {e}", path.display()))).transpose()?;
        let make = || -> io::Result<PathBuf> {
            let parent = place::own()?;
            let dir = tempfile::Builder::new()
                .prefix(&format!("{RUN}{}-", std::process::id()))
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(parent)?;
            let mut totals =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.path().join("totals"))?;
            totals.set_len(TOTALS_LEN as u64)?;
            // Zeroes, and what they are.
            totals.write_all(&VERSION.to_ne_bytes())?;
            Ok(dir.keep())
        };
        let dir = make().map_err(|e| format!("no directory for the summary: {e}"))?;
        Ok(Place { dir, form, to })
    }

    /// Runs `become_program` in a child, waits for that, and sums up.
    pub fn watch(mut self, command: &[OsString], become_program: impl FnOnce() -> ExitCode) -> ExitCode {
        let (mut set, began) = (SigSet::empty(), Instant::now());
        WISHES.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| set.add(signal));
        let mut before = SigSet::empty();
        let ready = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
        let signals = match ready {
            Ok(signals) => signals,
            Err(error) => return self.fail(&error),
        };
        // SAFETY: this process has one thread.
        let child = match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
                return become_program();
            }
            Ok(ForkResult::Parent { child }) => child,
            Err(error) => return self.fail(&error),
        };
        let status = attend(child, &signals);
        let (endpoints, open) = self.collect();
        missed::tell();
        let summary = Summary::of(command, child, status, began.elapsed(), endpoints);
        let text = match self.form {
            Form::Text => summary.text(open, self.to.is_none() && io::stderr().is_terminal()),
            Form::Json => serde_json::to_string(&summary).unwrap_or_default() + "\n",
        };
        let written = match &mut self.to {
            Some(file) => file.write_all(text.as_bytes()),
            None => io::stderr().write_all(text.as_bytes()),
        };
        if let Err(error) = written {
            eprintln!("nlmmap: the summary could not be written: {error}");
        }
        if open == 0 {
            let _ = fs::remove_dir_all(&self.dir);
        }
        leave(status)
    }

    fn fail(&self, error: &dyn std::fmt::Display) -> ExitCode {
        let _ = fs::remove_dir_all(&self.dir);
        eprintln!("nlmmap: the program cannot be started: {error}");
        ExitCode::from(126)
    }

    /// All endpoints there were, and how many of them are in use still.
    fn collect(&self) -> (Vec<Seen>, usize) {
        let totals = || {
            let mut totals = Totals::default();
            let read = place::open(&self.dir.join("totals")).and_then(|mut file| file.read_exact(totals.bytes_mut()));
            read.map(|()| totals)
        };
        // A supervisor hears of the program's end when this process does: nothing may pass from the pages into the totals between
        // the looks at both.
        let taken = |totals: &io::Result<Totals>| totals.as_ref().map_or(0, |t| t.taken.load(Ordering::Acquire));
        let patience = Instant::now() + PATIENCE;
        let (read, left) = loop {
            let (read, left) = (totals(), place::inside(&self.dir));
            // A page that is marked as counted goes when it has been; one that a killed process has left stays.
            let moves = taken(&totals()) != taken(&read) || left.iter().any(|found| found.counted);
            if !moves || Instant::now() > patience {
                break (read, left);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut all: Vec<Seen> = Vec::new();
        if let Some(totals) = &missed::seen(&self.dir.join("totals").display(), read) {
            let filled = |n: &AtomicU32| n.load(Ordering::Acquire) > 0;
            all.extend(
                totals.records.iter().chain([&totals.others]).filter(|r| filled(&r.endpoints)).map(seen::recorded),
            );
        }
        let open = left.iter().filter(|found| found.alive).count();
        all.extend(left.into_iter().filter(|found| !found.counted).map(|found| found.seen));
        (all, open)
    }
}

/// Waits for the child's end, and hands on what is meant for it. What the terminal sends, it sends to both.
fn attend(child: Pid, signals: &SignalFd) -> WaitStatus {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::EINTR) => {}
            Ok(status) => return status,
            Err(_) => return WaitStatus::Exited(child, 126),
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        while let Ok(Some(info)) = signals.read_signal() {
            let by_somebody = info.ssi_code <= 0;
            if let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed())
                && signal != Signal::SIGCHLD
                && by_somebody
            {
                let _ = kill(child, signal);
            }
        }
    }
}

/// Ends as the program did.
fn leave(status: WaitStatus) -> ExitCode {
    match status {
        WaitStatus::Exited(_, code) => ExitCode::from(code as u8),
        WaitStatus::Signaled(_, signal, _) => {
            // The program's core is enough.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::all()), None);
            let _ = raise(signal);
            ExitCode::from(128 + signal as u8)
        }
        _ => ExitCode::FAILURE,
    }
}

#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    seen: Seen,
    hints: Vec<String>,
}

#[derive(Serialize)]
struct Summary {
    command: Vec<String>,
    pid: i32,
    exit_status: Option<i32>,
    signal: Option<String>,
    seconds: f64,
    endpoints: Vec<Told>,
    total: Counts,
    system_calls_saved: u64,
}

impl Summary {
    fn of(command: &[OsString], pid: Pid, status: WaitStatus, time: Duration, endpoints: Vec<Seen>) -> Summary {
        let (exit_status, signal) = match status {
            WaitStatus::Exited(_, code) => (Some(code), None),
            WaitStatus::Signaled(_, signal, _) => (None, Some(signal.to_string())),
            _ => (None, None),
        };
        let total = endpoints.iter().fold(Counts::default(), |sum, seen| sum.and(&seen.counts));
        let saved = endpoints.iter().fold(0u64, |sum, seen| sum.saturating_add(seen.counts.calls_saved()));
        let told = |seen: Seen| {
            let hints = causes(&seen).into_iter().map(|Cause { what, cure }| format!("{what}; cure: {cure}")).collect();
            Told { seen, hints }
        };
        Summary {
            command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            pid: pid.as_raw(),
            exit_status,
            signal,
            seconds: (time.as_secs_f64() * 1000.0).round() / 1000.0,
            endpoints: endpoints.into_iter().map(told).collect(),
            total,
            system_calls_saved: saved,
        }
    }

    fn text(&self, open: usize, bold: bool) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let bold = bold && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let end = match (&self.exit_status, &self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (_, Some(signal)) => format!("killed by {signal}"),
            _ => "ended".to_owned(),
        };
        let name = self.command.first().map_or("", String::as_str);
        let _ = writeln!(text, "{on}nlmmap: {name} (pid {}): {end} after {:.1} s{off}", self.pid, self.seconds);
        if self.endpoints.is_empty() {
            let _ = writeln!(text, "  no ring was set (NETLINK_RX_RING, NETLINK_TX_RING): the library did nothing");
            return text;
        }
        let mut families: Vec<String> = self.endpoints.iter().map(|told| family(told.seen.family)).collect();
        families.sort();
        families.dedup();
        let t = &self.total;
        let beside = match open {
            0 => String::new(),
            n => format!("; {n} of them in use still"),
        };
        let _ = writeln!(text, "  sockets       {} with rings ({}){beside}", self.endpoints.len(), families.join(", "));
        let _ = writeln!(
            text,
            "  messages      {} in frames, {} by COPY, {} sent from frames",
            grouped(t.rx_frames),
            grouped(t.rx_copies),
            grouped(t.tx_frames)
        );
        let _ = writeln!(
            text,
            "  system calls  {} on the real sockets, {} fewer than recv and send take",
            grouped(t.system_calls),
            grouped(self.system_calls_saved)
        );
        let _ = writeln!(text, "  overruns      {}", grouped(t.overruns));
        for told in &self.endpoints {
            for Cause { what, cure } in causes(&told.seen) {
                let Seen { command, pid, fd, family: number, .. } = &told.seen;
                let _ = writeln!(text, "  {command}[{pid}] fd {fd} ({}): {what}", family(*number));
                let _ = writeln!(text, "    cure: {cure}");
            }
        }
        text
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }
}
