//! Log lines: for people on a terminal, for the journal without colors and times; refusals never in floods.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cuse_rs::Caller;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use super::caller::Client;

/// Refusals that are logged in one second; clients can cause any number.
const MOST_A_SECOND: u64 = 10;

/// Sets the level of a running log.
pub type SetLevel = Box<dyn Fn(LevelFilter) + Send>;

/// Starts the log on standard error.
pub fn start(level: LevelFilter) -> SetLevel {
    let (filter, handle) = reload::Layer::new(level);
    let lines = layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal());
    // The journal has times of its own.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if in_journal { lines.without_time().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    Box::new(move |level| {
        // Fails only when the log is gone.
        let _ = handle.reload(level);
    })
}

/// The second of the process's life, and how many lines it has had.
static BUDGET: AtomicU64 = AtomicU64::new(0);

fn within_budget() -> bool {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let second = START.get_or_init(Instant::now).elapsed().as_secs() + 1;
    let next = |old: u64| if old >> 16 == second { old + 1 } else { second << 16 | 1 };
    let old = BUDGET.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
        let new = next(old);
        (new & 0xffff <= MOST_A_SECOND + 1).then_some(new)
    });
    match old {
        Ok(old) if next(old) & 0xffff == MOST_A_SECOND + 1 => {
            tracing::warn!("further refusals of this second are not logged");
            false
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Something was refused to a client.
pub fn refused(client: &Client, why: fmt::Arguments<'_>) {
    if within_budget() {
        tracing::warn!(pid = client.pid, uid = client.uid, command = client.command, "refused: {why}");
    }
}

/// An open was refused.
pub fn refused_open(caller: &Caller, why: &str) {
    if within_budget() {
        tracing::warn!(tid = caller.tid, uid = caller.uid, "open refused: {why}");
    }
}
