//! Runs one command in a process group of its own, bounded in time, and keeps what it wrote.

use super::paths::scratch;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Far more than what is waited for takes, in seconds here; on a slower machine (`NLMMAP_PATIENCE`) so many times as long.
pub fn patient(seconds: u64) -> Duration {
    Duration::from_secs(seconds * patience())
}

/// What comes to so many in a time here; on a slower machine to so many times less, and one at least.
pub fn modest(count: u64) -> u64 {
    count.div_ceil(patience())
}

fn patience() -> u64 {
    std::env::var("NLMMAP_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1).max(1)
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status, or `None` when it was killed.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed for taking too long.
    pub timed_out: bool,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Whether it ended by itself with status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// One line on the end, then what was written.
    pub fn describe(&self) -> String {
        let end = match (self.timed_out, self.code, self.signal) {
            (true, ..) => "took too long and was killed".to_string(),
            (_, Some(code), _) => format!("ended with status {code}"),
            (_, None, Some(signal)) => format!("died of signal {signal}"),
            _ => "ended".to_string(),
        };
        format!("{end}\nstdout: {}\nstderr: {}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// One line to the terminal, past libtest's capture: for what must be seen though the test passes.
pub fn say(line: &str) {
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Runs `command` for at most `limit`, then kills its whole process group.
pub fn run(command: &mut Command, limit: Duration) -> Outcome {
    let (out_path, err_path) = (scratch("stdout"), scratch("stderr"));
    let file = |path| File::create(path).expect("a scratch file can be made");
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(file(&out_path))
        .stderr(file(&err_path))
        .spawn()
        .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid is an i32"));
    let deadline = Instant::now() + limit;
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if Instant::now() > deadline && !timed_out {
            timed_out = true;
            // Already gone is as good as killed.
            let _ = killpg(group, Signal::SIGKILL);
        }
        sleep(Duration::from_millis(5));
    };
    // Whatever a client left running ends with it.
    let _ = killpg(group, Signal::SIGKILL);
    let text = |path| {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let _ = fs::remove_file(path);
        text
    };
    Outcome { code: status.code(), signal: status.signal(), timed_out, stdout: text(out_path), stderr: text(err_path) }
}
