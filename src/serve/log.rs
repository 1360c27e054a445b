//! Log lines: for people on a terminal, for the journal without colors and times; refusals never in floods.
//!
//! | module | promise |
//! | --- | --- |
//! | [`queue`] | whoever logs never waits for standard error; what had no room is counted, and told later |
//! | [`floods`] | no user's refusals hide another's |

mod floods;
mod queue;

use std::fmt;
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use super::caller::Client;
use floods::{Floods, Verdict};
use queue::Queue;

/// How long the end waits for the last lines.
const LAST_WORDS: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();
static FLOODS: Mutex<Floods> = Mutex::new(Floods::new());

/// The running log. Dropped, it has written what it could within a second.
pub struct Log {
    set_level: Box<dyn Fn(LevelFilter) + Send>,
}

impl Log {
    /// Sets the level.
    pub fn set_level(&self, level: LevelFilter) {
        (self.set_level)(level);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        finish();
    }
}

fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.wait_until_written(LAST_WORDS);
    }
}

/// Starts the log on standard error, and the thread that writes it: what forks without an exec forks before this.
pub fn start(level: LevelFilter) -> io::Result<Log> {
    let queue = QUEUE.get_or_init(|| Arc::new(Queue::new())).clone();
    let (filter, handle) = reload::Layer::new(level);
    let writer = queue.clone();
    let lines = layer().with_writer(move || writer.writer()).with_target(false).with_ansi(io::stderr().is_terminal());
    // The journal has times of its own.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if in_journal { lines.without_time().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    // It only writes.
    super::confine::start_thread("log", 0, move || queue.write_all(io::stderr(), tell_later))?;
    // A panic prints, and would wait for standard error as well.
    panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        finish();
    }));
    let set_level = Box::new(move |level| {
        // Fails only when the log is gone.
        let _ = handle.reload(level);
    });
    Ok(Log { set_level })
}

fn floods() -> MutexGuard<'static, Floods> {
    FLOODS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines about lines that were not written. Gives when there may be more of them.
fn tell_later(dropped: u64) -> Option<Duration> {
    if dropped != 0 {
        tracing::warn!(lines = dropped, "log lines were lost: standard error was not read in time");
    }
    let (untold, next) = floods().untold(Instant::now());
    for (uid, count) in untold {
        match uid {
            Some(uid) => tracing::warn!(uid, count, "further refusals were not logged"),
            None => tracing::warn!(count, "further refusals of other users were not logged"),
        }
    }
    next
}

fn within_budget(uid: u32) -> bool {
    let verdict = floods().judge(uid, Instant::now());
    if let (Verdict::FirstUntold, Some(queue)) = (verdict, QUEUE.get()) {
        queue.wake();
    }
    verdict == Verdict::Tell
}

/// Something was refused to a client.
pub fn refused(client: &Client, why: fmt::Arguments<'_>) {
    if within_budget(client.uid) {
        tracing::warn!(pid = client.pid, uid = client.uid, command = client.command, "refused: {why}");
    }
}

/// An open file was lost on its way from one worker to another.
pub fn lost(client: &Client, why: Errno) {
    if within_budget(client.uid) {
        let Client { pid, uid, command, .. } = client;
        tracing::warn!(
            pid,
            uid,
            command,
            "an open file is lost on its way to another worker, and answers ENOTCONN: {why}"
        );
    }
}

/// An open was refused.
pub fn refused_open(caller: &Caller, why: &str) {
    if within_budget(caller.uid) {
        tracing::warn!(tid = caller.tid, uid = caller.uid, "open refused: {why}");
    }
}
