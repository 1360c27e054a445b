//! One adopted socket in this process: its endpoint, and what only this process knows of it.
//!
//! The memory of a [`Local`] is never given back, only used again: a thread that found it in the table a moment ago may
//! always look at it, and finds out that it came too late by looking at the table once more.

use crate::duty::Duty;
use crate::log::info;
use crate::users::Users;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::sys;

/// Mappings of one endpoint that are followed in one process.
pub const RANGES: usize = 16;
/// Registrations of one endpoint with epoll instances.
pub const WATCHES: usize = 16;

/// In [`Range::lo`]: taken, and not filled in yet.
const TAKEN: usize = 1;

/// A number cannot change hands in less time than this, in ticks of the processor's clock: it takes a system call that closes
/// a socket (about 64 to 250 ns, below the cost of any).
const SWIFT: u64 = 256;
/// A call that took longer may have slept (about 5 us).
const SHORT: u64 = 1 << 14;

static MAPPINGS: AtomicUsize = AtomicUsize::new(1);

/// The place of a mapping or an unmapping in their order: taken behind the kernel's `mmap`, before its `munmap`. What is forgotten
/// for an unmapping is what was mapped before it, though another thread is given the same addresses at once.
pub fn now_mapping() -> usize {
    MAPPINGS.fetch_add(1, Ordering::SeqCst)
}

/// A piece of address space where the client has the rings mapped; `lo == 0` for none.
#[derive(Debug)]
pub struct Range {
    /// First byte.
    pub lo: AtomicUsize,
    /// Behind the last byte.
    pub hi: AtomicUsize,
    /// Its place in the order of all mappings and unmappings of the process ([`now_mapping`]).
    pub nr: AtomicUsize,
}

/// A registration with an epoll instance.
#[derive(Debug)]
pub struct Watch {
    /// The epoll descriptor plus one, 0 for a free entry; negated when it has ended and the kernel may still report its mark.
    pub ep: AtomicI32,
    /// The descriptor it was registered by.
    pub fd: AtomicI32,
    /// What the client asked for.
    pub events: AtomicU32,
    /// The client's word.
    pub data: AtomicU64,
    /// Arrivals at the last report (edge triggered).
    pub seen: AtomicU64,
    /// Whether a one-shot registration may still fire.
    pub armed: AtomicBool,
    /// Whether the kernel's registration carries our mark instead of the client's word.
    pub marked: AtomicBool,
}

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub struct Local {
    /// The engine's part.
    pub endpoint: Endpoint,
    /// The next in the list of all.
    pub next: AtomicPtr<Local>,
    /// Whether it stands for a socket.
    pub live: AtomicBool,
    /// Hooks that are at work with it.
    pub users: Users,
    /// Descriptors of this process that lead here.
    pub fds: AtomicU32,
    /// When the call that is under way began ([`sys::ticks`]); 0 unless it is the only one, by the only number.
    entered: AtomicU64,
    /// When such a call, which was short, last ended; 0 for not since the numbers last changed.
    left: AtomicU64,
    /// The socket's `SO_COOKIE`.
    pub cookie: AtomicU64,
    /// A duplicate that keeps the socket while the client has closed its own but still maps the rings, or sleeps in a receive;
    /// or -1.
    pub orphan: AtomicI32,
    /// Where the rings are mapped.
    pub ranges: [Range; RANGES],
    /// Where the socket is watched.
    pub watches: [Watch; WATCHES],
    /// How many of these, from the first on, have ever been in use.
    pub watching: AtomicUsize,
    /// What the backing thread thinks of it.
    pub duty: Duty,
    /// The process that has made it: the one to tell how it ends.
    pub maker: AtomicU32,
    /// Messages of it that the log has been told are lost.
    pub lost: AtomicU64,
    /// Losses of the kernel's, which say something else and so are told by themselves.
    pub lost_by_kernel: AtomicU64,
    /// Looks that found messages held.
    pub held: AtomicU64,
    /// The number in the name of the file that shows it, 0 for none.
    pub shown: AtomicU32,
}

const _: () = assert!(size_of::<Local>() <= sys::PAGE);

impl Local {
    /// Whether any part of the rings is mapped in this process.
    pub fn is_mapped(&self) -> bool {
        self.ranges.iter().any(|r| r.lo.load(Ordering::Relaxed) != 0)
    }

    /// Whether an address lies in a mapping of the rings.
    pub fn covers(&self, at: usize) -> bool {
        self.ranges.iter().any(|r| {
            let lo = r.lo.load(Ordering::Relaxed);
            lo > TAKEN && (lo..r.hi.load(Ordering::Relaxed)).contains(&at)
        })
    }

    /// Whether any of `lo..hi` lies in a mapping of the rings.
    pub fn overlaps(&self, lo: usize, hi: usize) -> bool {
        self.ranges.iter().any(|r| {
            let a = r.lo.load(Ordering::Relaxed);
            a > TAKEN && a < hi && lo < r.hi.load(Ordering::Relaxed)
        })
    }

    /// Notes a mapping that was made at `nr`. `false` when there are too many pieces to follow.
    pub fn note_range(&self, lo: usize, hi: usize, nr: usize) -> bool {
        let free =
            self.ranges.iter().find(|r| r.lo.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        let Some(free) = free else { return false };
        free.hi.store(hi, Ordering::Relaxed);
        free.nr.store(nr, Ordering::Relaxed);
        free.lo.store(lo, Ordering::Release);
        true
    }

    /// Forgets what was mapped in `lo..hi` before `nr`. Returns whether there was anything.
    pub fn forget_range(&self, lo: usize, hi: usize, nr: usize) -> bool {
        let mut hit = false;
        let mut tail = None;
        for r in &self.ranges {
            let (a, b) = (r.lo.load(Ordering::Acquire), r.hi.load(Ordering::Relaxed));
            let made = r.nr.load(Ordering::Relaxed);
            if a <= TAKEN || hi <= a || b <= lo || made >= nr {
                continue;
            }
            hit = true;
            match (lo > a, hi < b) {
                (false, false) => r.lo.store(0, Ordering::Release),
                (true, false) => r.hi.store(lo, Ordering::Relaxed),
                (false, true) => r.lo.store(hi, Ordering::Relaxed),
                (true, true) => {
                    r.hi.store(lo, Ordering::Relaxed);
                    tail = Some((hi, b, made));
                }
            }
        }
        if let Some((lo, hi, made)) = tail {
            self.note_range(lo, hi, made);
        }
        hit
    }

    /// Whether a number is this socket at this instant. Only `EBADF` and `ENOTSOCK` tell without a cookie that it is something
    /// else; where the kernel does not answer (a sandbox that refuses the question) it is what the table says.
    #[inline]
    pub fn is_socket(&self, fd: i32) -> bool {
        match sys::cookie(fd) {
            Ok(cookie) => cookie == self.cookie.load(Ordering::Relaxed),
            Err(error) => !matches!(error, Errno::BADF | Errno::NOTSOCK),
        }
    }

    /// Whether nothing of the process leads here any more, when nobody is at work with it.
    pub fn is_over(&self) -> bool {
        self.fds.load(Ordering::Acquire) == 0 && !self.is_mapped()
    }

    /// Whether the only number that leads here must still be it at `now` (interposer.md, "Identity").
    #[inline]
    pub fn is_certain(&self, now: u64) -> bool {
        now.wrapping_sub(self.left.load(Ordering::Relaxed)) < SWIFT && self.fds.load(Ordering::Relaxed) == 1
    }

    /// A call has begun at `now`, by a number that was just found to be right.
    #[inline]
    pub fn note_enter(&self, now: u64) {
        let only = self.users.is_one() && self.fds.load(Ordering::Relaxed) == 1;
        self.entered.store(if only { now } else { 0 }, Ordering::Relaxed);
    }

    /// Whether such a call is under way.
    #[inline]
    pub fn is_entered(&self) -> bool {
        self.entered.load(Ordering::Relaxed) != 0
    }

    /// A call ends.
    #[inline]
    pub fn note_leave(&self) {
        let entered = self.entered.load(Ordering::Relaxed);
        let now = sys::ticks();
        let only = entered != 0 && self.users.is_one() && now.wrapping_sub(entered) < SHORT;
        self.entered.store(0, Ordering::Relaxed);
        self.left.store(if only { now } else { 0 }, Ordering::Relaxed);
    }

    /// The numbers that lead here change: the next call looks again.
    pub fn distrust(&self) {
        self.entered.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
    }

    /// Claims it for the only thread that is at work with it, which is the caller's, waiting a few milliseconds for others (the
    /// backing thread looks in for a moment now and then).
    pub fn claim_alone(&self) -> bool {
        for _ in 0..50 {
            if self.users.claim_alone() {
                return true;
            }
            sys::nap(100_000);
        }
        false
    }

    /// The one line about an endpoint at its `end`.
    pub fn summary(&self, fd: i32, end: &str) {
        if let Some(control) = self.endpoint.control() {
            let c = &control.counters;
            let n = |w: &AtomicU64| w.load(Ordering::Relaxed);
            info!(
                "fd {fd} {end}: family {}, rx {} frames {} datagrams {} copies {} overruns, tx {} frames, {} system calls",
                self.endpoint.family.load(Ordering::Relaxed),
                n(&c.rx_frames),
                n(&c.rx_datagrams),
                n(&c.rx_copies),
                n(&c.overruns),
                n(&c.tx_frames),
                n(&c.calls)
            );
        }
    }
}
