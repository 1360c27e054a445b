//! The state an endpoint's processes share: what the 4.5 kernel kept in its socket.
//!
//! It lies in shared memory that the client never maps. Words are written by the holder of [`Control::lock`] (transmit:
//! [`Control::tx_lock`]) unless they say otherwise; readers may look at any time. All zeroes is a new endpoint.

use crate::errno::Errno;
use crate::lock::Lock;
use crate::waits::Waits;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of [`Control::flags`].
pub mod flag {
    /// An overrun was reported and the reader has not drained the queue since (`NETLINK_CONGESTED`).
    pub const CONGESTED: u32 = 1;
    /// A dump was asked for and its end has not been seen: receive one part at a time.
    pub const DUMP: u32 = 1 << 1;
    /// A doorbell is in the real queue: it makes the socket readable for waiters who see only the socket.
    pub const BELL: u32 = 1 << 2;
    /// Messages may wait in the real socket that the ring cannot take at present.
    pub const BLOCKED: u32 = 1 << 3;
    /// The client set `NETLINK_NO_ENOBUFS`.
    pub const NO_ENOBUFS: u32 = 1 << 4;
    /// The client asked for `SO_PASSCRED` itself.
    pub const PASSCRED: u32 = 1 << 5;
    /// The client asked for `NETLINK_PKTINFO` itself.
    pub const PKTINFO: u32 = 1 << 6;
    /// A part of a dump has come, and not its end (`cb_running`).
    pub const DUMPING: u32 = 1 << 7;
    /// The socket may not, or cannot, send itself a doorbell.
    pub const NO_BELL: u32 = 1 << 8;
    /// A plug is in the real queue, so that senders wait.
    pub const PLUG: u32 = 1 << 9;
    /// The real socket's receive buffer was made small, so that senders wait.
    pub const NARROW: u32 = 1 << 10;
    /// The last pump did not see the real queue's end: answers to earlier sends may be in it.
    pub const BEHIND: u32 = 1 << 11;
    /// More than one process sends.
    pub const SHARED: u32 = 1 << 12;
    /// Somebody has asked for a copy of what passes ([`crate::tap`]).
    pub const TAPPED: u32 = 1 << 13;
}

/// How many processes can have a ring mapped at once and be told apart.
pub const MAPPERS: usize = 32;

/// A process with live mappings of the rings.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Mapper {
    /// Process id, 0 for a free entry.
    pub pid: AtomicU32,
    /// Its mappings.
    pub maps: AtomicU32,
}

/// Counters, in units of the name; relaxed, for people.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Frames made `VALID`.
    pub rx_frames: AtomicU64,
    /// Datagrams received.
    pub rx_datagrams: AtomicU64,
    /// Messages that travelled by `COPY`.
    pub rx_copies: AtomicU64,
    /// Messages lost, by the kernel's `ENOBUFS` or by a full ring.
    pub overruns: AtomicU64,
    /// Frames sent.
    pub tx_frames: AtomicU64,
    /// System calls made on the real socket.
    pub calls: AtomicU64,
    /// Messages that a daemon's policy did not let through.
    pub policy_drops: AtomicU64,
    /// Of the overruns, those by the kernel's `ENOBUFS`.
    pub lost_by_kernel: AtomicU64,
    /// Of the others, those beside a ring with room: what was kept for the client's `recv` has filled its store.
    pub lost_unread: AtomicU64,
    /// Looks that found messages waiting in the socket behind a full ring.
    pub held: AtomicU64,
    /// Looks that filled the ring, with more in the socket perhaps.
    pub filled: AtomicU64,
    /// The most that such a look has found there, in bytes as the kernel charges them to the receive buffer.
    pub held_bytes: AtomicU64,
}

impl Counters {
    /// All of them that add up, in order.
    pub fn words(&self) -> [&AtomicU64; 10] {
        let Counters { rx_frames, rx_datagrams, rx_copies, overruns, tx_frames, calls, .. } = self;
        let Counters { lost_by_kernel, lost_unread, held, filled, .. } = self;
        [rx_frames, rx_datagrams, rx_copies, overruns, tx_frames, calls, lost_by_kernel, lost_unread, held, filled]
    }
}

/// One endpoint's shared state.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Held by whoever receives into the ring.
    pub lock: Lock,
    /// Held by whoever takes frames from the TX ring.
    pub tx_lock: Lock,
    /// Threads about to sleep, or asleep, in a wait for readiness (`poll` and the like). Written by anybody, sequentially consistent.
    pub waiters: AtomicU32,
    /// Threads asleep in a blocking receive: woken by a `COPY` message or an error, and by no `VALID` frame. As `waiters`.
    pub receivers: AtomicU32,
    /// The socket's pending error, 0 for none. Set under the lock, taken by an atomic exchange by anybody.
    pub error: AtomicU32,
    /// How often an error was set, which is news for an edge-triggered wait (`sk_error_report`).
    pub told: AtomicU32,
    /// See [`flag`]. Bits are set and cleared atomically.
    pub flags: AtomicU32,
    /// Next frame to fill.
    pub rx_head: AtomicU32,
    /// First frame not known to be released.
    pub rx_oldest: AtomicU32,
    /// Frames from `rx_oldest` to `rx_head`.
    pub rx_outstanding: AtomicU32,
    /// Frames made `VALID` or `COPY` so far: says that there is something new where the head, once around, does not.
    pub rx_published: AtomicU32,
    /// Next frame to take.
    pub tx_head: AtomicU32,
    /// The thread that sleeps in a kick, 0 for none.
    pub tx_sleeper: AtomicU32,
    /// The process that sends, 0 before any has.
    pub sender: AtomicU32,
    /// Messages that the last pump received.
    pub rx_burst: AtomicU32,
    /// Bytes of a message, on average, in the last receive into frames.
    pub rx_len: AtomicU32,
    /// The socket's own port id, 0 while it is not known.
    pub portid: AtomicU32,
    /// What a doorbell is charged to the receive queue ([`crate::socket::Socket::queued`]), 0 when it could not be measured.
    pub bell_bytes: AtomicU32,
    /// The real socket's receive buffer before it was plugged.
    pub room_before: AtomicU32,
    /// Tells this endpoint's doorbells from everything else.
    pub bell_secret: AtomicU64,
    /// Messages that wait in the store for the client's `recv`.
    pub copies: AtomicU32,
    /// Messages that wait in the store for a frame.
    pub unplaced: AtomicU32,
    /// Store: offset of the first live record (counts up without wrapping).
    pub store_tail: AtomicU64,
    /// Store: offset of the first record without a frame.
    pub store_place: AtomicU64,
    /// Store: offset behind the last record.
    pub store_end: AtomicU64,
    /// Store: offset behind the last message that was given a frame past others that wait for one.
    pub store_passed: AtomicU64,
    /// Store: most bytes used since it was last empty.
    pub store_high: AtomicU64,
    /// Who has the rings mapped.
    pub mappers: [Mapper; MAPPERS],
    /// For people.
    pub counters: Counters,
    /// The last error that was told, for people; 0 for none.
    pub last_error: AtomicU32,
    /// The last frame that was not sent: its position and one, then the error number below; 0 for none since that was looked at.
    pub tx_failed: AtomicU64,
    /// Waits that a daemon's front has answered.
    pub waits: Waits,
}

const _: () = assert!(size_of::<Control>() <= crate::sys::PAGE);

impl Control {
    /// Whether all of `bits` are set.
    #[inline]
    pub fn has(&self, bits: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & bits == bits
    }

    /// Sets or clears `bits`. The word is written only when it changes, so that readers keep their cache line.
    #[inline]
    pub fn set(&self, bits: u32, on: bool) {
        if on && !self.has(bits) {
            self.flags.fetch_or(bits, Ordering::Relaxed);
        } else if !on && self.flags.load(Ordering::Relaxed) & bits != 0 {
            self.flags.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    /// Makes `error` the pending one, in place of another: a socket has room for one.
    pub fn tell(&self, error: Errno) {
        self.error.store(error.0 as u32, Ordering::Relaxed);
        self.last_error.store(error.0 as u32, Ordering::Relaxed);
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the pending error, as `sock_error` does.
    #[inline]
    pub fn take_error(&self) -> i32 {
        if self.error.load(Ordering::Relaxed) == 0 { 0 } else { self.error.swap(0, Ordering::Relaxed) as i32 }
    }

    /// Counts `n` of something.
    #[inline]
    pub fn count(&self, what: &AtomicU64, n: u64) {
        what.store(what.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Notes `change` in the number of mappings that process `pid` has.
    pub fn note_mapping(&self, pid: u32, change: i32) {
        let free_or_mine = |m: &&Mapper| {
            let owner = m.pid.load(Ordering::Relaxed);
            owner == pid || owner == 0 || m.maps.load(Ordering::Relaxed) == 0
        };
        let mine = self.mappers.iter().find(|m| m.pid.load(Ordering::Relaxed) == pid);
        if let Some(m) = mine.or_else(|| self.mappers.iter().find(free_or_mine)) {
            if m.pid.swap(pid, Ordering::Relaxed) != pid {
                m.maps.store(0, Ordering::Relaxed);
            }
            let maps = m.maps.load(Ordering::Relaxed);
            m.maps.store(maps.saturating_add_signed(change), Ordering::Relaxed);
        }
    }

    /// Whether any live process has the rings mapped. Entries of processes that ended are cleared.
    pub fn is_mapped(&self, alive: impl Fn(u32) -> bool) -> bool {
        let mut mapped = false;
        for m in &self.mappers {
            let pid = m.pid.load(Ordering::Relaxed);
            if pid != 0 && m.maps.load(Ordering::Relaxed) != 0 {
                if alive(pid) {
                    mapped = true;
                } else {
                    m.maps.store(0, Ordering::Relaxed);
                    m.pid.store(0, Ordering::Relaxed);
                }
            }
        }
        mapped
    }
}
