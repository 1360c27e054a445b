//! All endpoints, looked at again and again: what happens in a second, how late messages are, how the last minute went.
//!
//! A look at an endpoint that is known is one `fstat` and one `pread` of its page; one at a process is a read of the line that
//! `/proc` has of its backing thread.

mod history;
mod thread;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

pub use history::History;
pub use thread::is_alive;

use super::place::{self, Found};
use super::seen::{Counts, Ring, Seen};
use crate::serve::stat::{Entry, Snapshot};
use thread::Thread;

/// One endpoint as the table shows it.
#[derive(Debug)]
pub struct Row {
    /// `PID.N` in a process, `NAME:HANDLE` in a daemon.
    pub id: String,
    pub seen: Seen,
    /// Processes that use it.
    pub users: Vec<u32>,
    pub history: History,
    /// Of the backing thread, or of the client's worker: share of a processor.
    pub cpu: Option<f64>,
    found: Option<Found>,
    worker: Option<u32>,
    mark: u64,
}

impl Row {
    /// An open file of a daemon.
    pub fn is_daemons(&self) -> bool {
        self.found.is_none()
    }

    /// The daemon's process that moves its messages.
    pub fn worker(&self) -> Option<u32> {
        self.worker
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Live {
    rows: HashMap<String, Row>,
    threads: HashMap<u32, Thread>,
    looks: u64,
}

impl Live {
    /// Looks again. `daemon`: what a daemon has answered.
    pub fn look(&mut self, now: Instant, daemon: Option<&Snapshot>) {
        self.looks += 1;
        let (mark, threads) = (self.looks, &mut self.threads);
        let paths: HashSet<PathBuf> =
            self.rows.values().filter_map(|row| Some(row.found.as_ref()?.path.clone())).collect();
        for row in self.rows.values_mut() {
            let Some(found) = &row.found else { continue };
            let Some(seen) = found.again() else { continue };
            let is_alive = threads.entry(seen.pid).or_insert_with(|| Thread::of(seen.pid)).look(now);
            if is_alive || row.users.iter().any(|pid| *pid != seen.pid && thread::is_alive(*pid)) {
                row.cpu = threads.get(&seen.pid).and_then(Thread::share);
                row.history.note(now, &seen);
                (row.seen, row.mark) = (seen, mark);
            }
        }
        for found in place::look_beside(&|path| paths.contains(path)) {
            threads.entry(found.seen.pid).or_insert_with(|| Thread::of(found.seen.pid)).look(now);
            let (id, seen, users) = (found.id.clone(), found.seen.clone(), found.users.clone());
            let mut row =
                Row { id, seen, users, history: History::default(), cpu: None, found: Some(found), worker: None, mark };
            row.history.note(now, &row.seen);
            self.rows.insert(row.id.clone(), row);
        }
        if let Some(daemon) = daemon {
            for entry in &daemon.endpoints {
                let (id, seen) = (format!("{}:{}", daemon.name, entry.handle), of_daemon(entry));
                let row = self.rows.entry(id.clone()).or_insert_with(|| Row {
                    id,
                    users: vec![seen.pid],
                    seen: seen.clone(),
                    history: History::default(),
                    cpu: None,
                    found: None,
                    worker: None,
                    mark,
                });
                row.history.note(now, &seen);
                (row.seen, row.mark, row.worker) = (seen, mark, entry.worker);
                row.cpu = entry.worker.and_then(|pid| {
                    let thread = threads.entry(pid).or_insert_with(|| Thread::whole(pid));
                    thread.look(now);
                    thread.share()
                });
            }
        }
        self.rows.retain(|_, row| row.mark == mark);
        let alive: HashSet<u32> =
            self.rows.values().flat_map(|row| [Some(row.seen.pid), row.worker]).flatten().collect();
        self.threads.retain(|pid, _| alive.contains(pid));
    }

    /// In no order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }
}

fn of_daemon(entry: &Entry) -> Seen {
    let ring = |ring: &Option<crate::serve::stat::Ring>| {
        ring.as_ref().map(|r| Ring {
            block_size: r.block_size,
            blocks: r.blocks,
            frame_size: r.frame_size,
            frames: r.frames,
        })
    };
    Seen {
        pid: entry.pid,
        uid: entry.uid,
        command: entry.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        fd: 0,
        family: entry.family.unwrap_or(u32::MAX),
        strict: entry.strict,
        rx: ring(&entry.rx),
        tx: ring(&entry.tx),
        occupied: entry.occupied,
        rx_head: entry.rx.as_ref().map_or(0, |ring| ring.head),
        tx_head: entry.tx.as_ref().map_or(0, |ring| ring.head),
        copies_waiting: entry.copies_waiting,
        waiting: entry.waiting,
        blocked: entry.blocked,
        last_error: entry.last_error,
        made: 0,
        counts: Counts {
            rx_frames: entry.rx_frames,
            rx_datagrams: entry.rx_datagrams,
            rx_copies: entry.rx_copies,
            overruns: entry.overruns,
            tx_frames: entry.tx_frames,
            system_calls: entry.system_calls,
            lost_by_kernel: entry.lost_by_kernel,
            lost_unread: entry.lost_unread,
            held: entry.held,
            filled: entry.filled,
            held_bytes: entry.held_bytes,
        },
    }
}
