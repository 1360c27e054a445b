//! Endpoints in preloaded processes, for `nlmmap stat`.

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::see::seen::{Ring, Seen, family};
use crate::see::{Found, look};

/// One endpoint, as JSON shows it.
#[derive(Serialize)]
pub struct Entry {
    pub id: String,
    /// Processes that use it.
    pub users: Vec<u32>,
    pub age_seconds: u64,
    #[serde(flatten)]
    pub seen: Seen,
}

/// All that the caller may see.
pub fn all() -> Vec<Entry> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.tv_sec().cast_unsigned());
    let entry = |Found { id, users, seen, .. }: Found| {
        let age_seconds = now.saturating_sub(seen.made / 1_000_000_000);
        Entry { id, users, age_seconds, seen }
    };
    look().into_iter().map(entry).collect()
}

/// The table.
pub fn print(all: &[Entry]) {
    println!("{} sockets with rings in processes that have the library", all.len());
    println!(
        "{:>12} {:>7} {:>6} {:16} {:>3} {:>10} {:>12} {:>12} {:>8} {:>10} {:>8} {:>8} {:>8}",
        "ENDPOINT",
        "PID",
        "UID",
        "COMMAND",
        "FD",
        "FAMILY",
        "RX",
        "TX",
        "OCCUPIED",
        "FRAMES",
        "COPIES",
        "SENT",
        "OVERRUNS"
    );
    let shape = |ring: &Option<Ring>| ring.map_or_else(|| "-".to_owned(), |r| format!("{}x{}", r.frames, r.frame_size));
    for Entry { id, seen, .. } in all {
        println!(
            "{id:>12} {:>7} {:>6} {:16} {:>3} {:>10} {:>12} {:>12} {:>8} {:>10} {:>8} {:>8} {:>8}",
            seen.pid,
            seen.uid,
            seen.command,
            seen.fd,
            family(seen.family),
            shape(&seen.rx),
            shape(&seen.tx),
            seen.occupied,
            seen.counts.rx_frames,
            seen.counts.rx_copies,
            seen.counts.tx_frames,
            seen.counts.overruns
        );
    }
}
