//! What the daemon tells of itself: a snapshot as JSON, for whoever connects to the control socket.

mod ask;
mod server;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use ask::{Silence, ask};
pub use server::Server;

use cuse_rs::{NodeKind, Observer};
use nlmmap_ring::control::flag::BLOCKED;
use nlmmap_ring::control::{Control, Counters};
use serde::{Deserialize, Serialize};

use super::device::Netlink;
use super::file::File;
use super::limits::Limits;

/// The daemon at one moment.
#[derive(Debug, Deserialize, Serialize)]
pub struct Snapshot {
    pub name: String,
    pub pid: u32,
    pub opens: u32,
    pub ring_bytes: u64,
    /// Of those, what clients' control groups are charged for.
    pub paid_bytes: u64,
    /// Why the daemon's is charged for others, if that has happened.
    pub unpaid: Option<String>,
    /// Descriptors of the daemon that the open files take.
    pub descriptors: u64,
    pub limits: Limits,
    /// Requests of clients that are not answered yet.
    #[serde(default)]
    pub unanswered: usize,
    /// Ring files: nodes that the kernel remembers, and those of them with memory to map.
    #[serde(default)]
    pub nodes: usize,
    #[serde(default)]
    pub backings: usize,
    pub endpoints: Vec<Entry>,
}

/// Shape and position of a ring.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ring {
    pub block_size: u32,
    pub blocks: u32,
    pub frame_size: u32,
    pub frames: u32,
    pub head: u32,
}

/// One open file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    pub handle: u64,
    pub node: String,
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    pub age_seconds: u64,
    /// `NETLINK_*` number; none before the client has made its socket.
    pub family: Option<u32>,
    pub rx: Option<Ring>,
    pub tx: Option<Ring>,
    /// Whose control group is charged for the rings: `client` or `daemon`.
    pub charged: Option<String>,
    /// RX frames filled and not known to be released.
    pub occupied: u32,
    pub rx_frames: u64,
    pub rx_datagrams: u64,
    pub rx_copies: u64,
    pub copies_waiting: u32,
    pub overruns: u64,
    /// Messages that a rule does not name for receive.
    pub policy_drops: u64,
    pub tx_frames: u64,
    pub system_calls: u64,
    /// Of the overruns, the kernel's; of the others, those beside a ring with room.
    #[serde(default)]
    pub lost_by_kernel: u64,
    #[serde(default)]
    pub lost_unread: u64,
    /// Looks that found messages waiting behind a full ring, looks that filled it, and the most bytes that waited there.
    #[serde(default)]
    pub held: u64,
    #[serde(default)]
    pub filled: u64,
    #[serde(default)]
    pub held_bytes: u64,
    /// Messages that wait for a frame, and whether more do in the socket.
    #[serde(default)]
    pub waiting: u32,
    #[serde(default)]
    pub blocked: bool,
    /// The error the client was last told of, 0 for none.
    #[serde(default)]
    pub last_error: u32,
    /// Answers as Linux 4.5 did.
    #[serde(default)]
    pub strict: bool,
    /// The process that moves its messages, for all open files of its client's place.
    #[serde(default)]
    pub worker: Option<u32>,
}

fn entry(file: &File) -> Entry {
    let control = file.control();
    let [rx, tx] = file.geometry();
    let count = |word: fn(&Counters) -> &AtomicU64| {
        control.map_or(0, |control| word(&control.counters).load(Ordering::Relaxed))
    };
    let ring = |request: nlmmap_ring::abi::nl_mmap_req, head: u32| Ring {
        block_size: request.nm_block_size,
        blocks: request.nm_block_nr,
        frame_size: request.nm_frame_size,
        frames: request.nm_frame_nr,
        head,
    };
    let head = |rx: bool| {
        control.map_or(0, |control| if rx { &control.rx_head } else { &control.tx_head }.load(Ordering::Relaxed))
    };
    let word = |word: fn(&Control) -> &AtomicU32| control.map_or(0, |control| word(control).load(Ordering::Relaxed));
    Entry {
        handle: file.handle,
        node: if file.node == NodeKind::Fuse { "fuse" } else { "cuse" }.into(),
        pid: file.client.pid,
        uid: file.client.uid,
        command: file.client.command.clone(),
        age_seconds: file.opened.elapsed().as_secs(),
        family: file.family(),
        rx: rx.map(|request| ring(request, head(true))),
        tx: tx.map(|request| ring(request, head(false))),
        charged: file.is_paid().map(|paid| if paid { "client" } else { "daemon" }.into()),
        occupied: file.occupancy(),
        rx_frames: count(|c| &c.rx_frames),
        rx_datagrams: count(|c| &c.rx_datagrams),
        rx_copies: count(|c| &c.rx_copies),
        copies_waiting: word(|c| &c.copies),
        overruns: count(|c| &c.overruns),
        policy_drops: count(|c| &c.policy_drops),
        tx_frames: count(|c| &c.tx_frames),
        system_calls: count(|c| &c.calls),
        lost_by_kernel: count(|c| &c.lost_by_kernel),
        lost_unread: count(|c| &c.lost_unread),
        held: count(|c| &c.held),
        filled: count(|c| &c.filled),
        held_bytes: count(|c| &c.held_bytes),
        waiting: word(|c| &c.unplaced),
        blocked: control.is_some_and(|control| control.has(BLOCKED)),
        last_error: word(|c| &c.last_error),
        strict: file.is_strict(),
        worker: file.worker(),
    }
}

/// As it is now.
pub(super) fn snapshot(name: &str, device: &Netlink, session: &Observer) -> Snapshot {
    let (held, session) = (device.ledger.held(), session.stats());
    let mut endpoints: Vec<Entry> = device.files.all().iter().map(|file| entry(file)).collect();
    endpoints.sort_by_key(|entry| entry.handle);
    Snapshot {
        name: name.into(),
        pid: std::process::id(),
        opens: held.opens,
        ring_bytes: held.ring_bytes,
        paid_bytes: held.paid_bytes,
        unpaid: device.workers.unpaid().map(str::to_owned),
        descriptors: held.descriptors(),
        limits: device.ledger.limits(),
        unanswered: session.unanswered,
        nodes: session.nodes,
        backings: session.backings,
        endpoints,
    }
}
