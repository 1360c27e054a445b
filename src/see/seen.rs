//! One endpoint as it was at one moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::card::{Page, Record, VERSION};
use nlmmap_ring::control::Counters;
use serde::Serialize;

/// A ring's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ring {
    pub block_size: u32,
    pub blocks: u32,
    pub frame_size: u32,
    pub frames: u32,
}

impl From<nl_mmap_req> for Ring {
    fn from(r: nl_mmap_req) -> Ring {
        Ring { block_size: r.nm_block_size, blocks: r.nm_block_nr, frame_size: r.nm_frame_size, frames: r.nm_frame_nr }
    }
}

/// What went through, since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames given to the client as `VALID`.
    pub rx_frames: u64,
    /// Datagrams received from the kernel's socket.
    pub rx_datagrams: u64,
    /// Messages that travelled by `COPY`: the client had to read them.
    pub rx_copies: u64,
    /// Losses, by the kernel's `ENOBUFS` or here.
    pub overruns: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// System calls made on the real socket.
    pub system_calls: u64,
    /// Of the overruns, the kernel's.
    pub lost_by_kernel: u64,
    /// Of the others, those beside a ring with room.
    pub lost_unread: u64,
    /// Looks that found messages waiting behind a full ring.
    pub held: u64,
    /// Looks that filled the ring.
    pub filled: u64,
    /// The most bytes that waited behind a full ring.
    pub held_bytes: u64,
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn small(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

impl From<&Counters> for Counts {
    fn from(c: &Counters) -> Counts {
        Counts {
            rx_frames: get(&c.rx_frames),
            rx_datagrams: get(&c.rx_datagrams),
            rx_copies: get(&c.rx_copies),
            overruns: get(&c.overruns),
            tx_frames: get(&c.tx_frames),
            system_calls: get(&c.calls),
            lost_by_kernel: get(&c.lost_by_kernel),
            lost_unread: get(&c.lost_unread),
            held: get(&c.held),
            filled: get(&c.filled),
            held_bytes: get(&c.held_bytes),
        }
    }
}

impl Counts {
    /// Both together. Words of a page may say anything, so sums stop where they end.
    pub fn and(&self, other: &Counts) -> Counts {
        let sum = u64::saturating_add;
        Counts {
            rx_frames: sum(self.rx_frames, other.rx_frames),
            rx_datagrams: sum(self.rx_datagrams, other.rx_datagrams),
            rx_copies: sum(self.rx_copies, other.rx_copies),
            overruns: sum(self.overruns, other.overruns),
            tx_frames: sum(self.tx_frames, other.tx_frames),
            system_calls: sum(self.system_calls, other.system_calls),
            lost_by_kernel: sum(self.lost_by_kernel, other.lost_by_kernel),
            lost_unread: sum(self.lost_unread, other.lost_unread),
            held: sum(self.held, other.held),
            filled: sum(self.filled, other.filled),
            held_bytes: self.held_bytes.max(other.held_bytes),
        }
    }

    /// System calls that a program would have made beyond those of the library, with one `recv` a datagram and one `send` a
    /// message.
    pub fn calls_saved(&self) -> u64 {
        self.rx_datagrams.saturating_add(self.tx_frames).saturating_sub(self.system_calls)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The process that made it.
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    /// Its descriptor then.
    pub fd: u32,
    /// `NETLINK_*` number.
    pub family: u32,
    /// Answers as Linux 4.5 did.
    pub strict: bool,
    pub rx: Option<Ring>,
    pub tx: Option<Ring>,
    /// RX frames filled and not known to be released.
    pub occupied: u32,
    /// Position of the ring's next frame.
    pub rx_head: u32,
    pub tx_head: u32,
    /// Messages that wait for the client's `recv`.
    pub copies_waiting: u32,
    /// Messages that wait for a frame.
    pub waiting: u32,
    /// Messages wait in the socket behind a full ring.
    pub blocked: bool,
    /// The error the client was last told of, 0 for none.
    pub last_error: u32,
    /// `CLOCK_MONOTONIC` when it was made, in nanoseconds.
    #[serde(skip)]
    pub made: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// A name as a process has given it to itself: for a terminal it must hold nothing but characters.
pub fn command(words: &[AtomicU32; 4]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| small(word).to_ne_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The page of an endpoint that has been made; none if it is not, or is of another version.
pub fn read(page: &Page) -> Option<Seen> {
    use nlmmap_ring::control::flag::BLOCKED;
    let Page { control, card, .. } = page;
    if card.version.load(Ordering::Acquire) != VERSION {
        return None;
    }
    let [rx, tx] = card.rings().map(|ring| ring.map(Ring::from));
    let within = |word: &AtomicU32, ring: Option<Ring>| ring.map_or(0, |ring| small(word) % ring.frames.max(1));
    Some(Seen {
        pid: small(&card.pid),
        uid: small(&card.uid),
        command: command(&card.command),
        fd: small(&card.fd),
        family: small(&card.family),
        strict: small(&card.strict) != 0,
        occupied: small(&control.rx_outstanding).min(rx.map_or(0, |ring| ring.frames)),
        rx_head: within(&control.rx_head, rx),
        tx_head: within(&control.tx_head, tx),
        rx,
        tx,
        copies_waiting: small(&control.copies),
        waiting: small(&control.unplaced),
        blocked: control.has(BLOCKED),
        last_error: small(&control.last_error),
        made: get(&card.made),
        counts: Counts::from(&control.counters),
    })
}

/// An endpoint that was counted when it was over.
pub fn recorded(record: &Record) -> Seen {
    let ring = |words: &[AtomicU32; 4]| {
        let [block_size, blocks, frame_size, frames] = words.each_ref().map(small);
        (frames > 0).then_some(Ring { block_size, blocks, frame_size, frames })
    };
    Seen {
        pid: small(&record.pid),
        uid: 0,
        command: command(&record.command),
        fd: small(&record.fd),
        family: small(&record.family),
        strict: small(&record.strict) != 0,
        rx: ring(&record.rx),
        tx: ring(&record.tx),
        occupied: 0,
        rx_head: 0,
        tx_head: 0,
        copies_waiting: 0,
        waiting: 0,
        blocked: false,
        last_error: 0,
        made: 0,
        counts: Counts::from(&record.counters),
    }
}

/// What people call a family.
pub fn family(number: u32) -> String {
    let name = match number {
        0 => "route",
        2 => "usersock",
        4 => "sock_diag",
        5 => "nflog",
        6 => "xfrm",
        7 => "selinux",
        8 => "iscsi",
        9 => "audit",
        10 => "fib_lookup",
        11 => "connector",
        12 => "netfilter",
        13 => "ip6_fw",
        14 => "dnrtmsg",
        15 => "uevent",
        16 => "generic",
        18 => "scsi",
        19 => "ecryptfs",
        20 => "rdma",
        21 => "crypto",
        22 => "smc",
        _ => return number.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_hostile_words_stay_numbers() {
        let page = Page::default();
        assert_eq!(read(&page), None);
        page.card.version.store(VERSION, Ordering::Relaxed);
        page.card.name(b"evil\x1b[2J");
        page.control.rx_outstanding.store(u32::MAX, Ordering::Relaxed);
        page.control.rx_head.store(u32::MAX, Ordering::Relaxed);
        page.control.counters.rx_frames.store(u64::MAX, Ordering::Relaxed);
        page.control.counters.rx_copies.store(u64::MAX, Ordering::Relaxed);
        let seen = read(&page).expect("a page of this version");
        assert_eq!((seen.occupied, seen.rx_head, seen.command.as_str()), (0, 0, "evil?[2J"));
        assert_eq!(seen.counts.and(&seen.counts).rx_frames, u64::MAX);
        let ring = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 2, nm_frame_size: 2048, nm_frame_nr: 4 };
        page.card.note_ring(true, Some(&ring));
        let seen = read(&page).expect("a page of this version");
        assert_eq!((seen.occupied, seen.rx_head), (4, 3));
    }
}
