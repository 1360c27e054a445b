//! One adopted socket in this process: its endpoint, and what only this process knows of it.
//!
//! The memory of a [`Local`] is never given back, only used again: a thread that found it in the table a moment ago may
//! always look at it, and finds out that it came too late by looking at the table once more.

use crate::log::info;
use crate::{fdtable, guard, process};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::sys;

/// Mappings of one endpoint that are followed in one process.
pub const RANGES: usize = 16;
/// Registrations of one endpoint with epoll instances.
pub const WATCHES: usize = 16;

/// In [`Local::users`]: one thread has it for itself.
pub const CLAIMED: u32 = 1 << 31;

/// A piece of address space where the client has the rings mapped; `lo == 0` for none.
#[derive(Debug)]
pub struct Range {
    /// First byte.
    pub lo: AtomicUsize,
    /// Behind the last byte.
    pub hi: AtomicUsize,
}

/// A registration with an epoll instance.
#[derive(Debug)]
pub struct Watch {
    /// The epoll descriptor plus one, 0 for a free entry.
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
    /// Hooks that are at work with it, or [`CLAIMED`].
    pub users: AtomicU32,
    /// Descriptors of this process that lead here.
    pub fds: AtomicU32,
    /// The socket's `SO_COOKIE`.
    pub cookie: AtomicU64,
    /// A duplicate that keeps the socket while the client has closed its own but still maps the rings, or -1.
    pub orphan: AtomicI32,
    /// Where the rings are mapped.
    pub ranges: [Range; RANGES],
    /// Where the socket is watched.
    pub watches: [Watch; WATCHES],
    /// What the backing thread thinks of it.
    pub duty: guard::Duty,
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
            lo != 0 && (lo..r.hi.load(Ordering::Relaxed)).contains(&at)
        })
    }

    /// Follows a new mapping. `false` when there are too many pieces to follow.
    pub fn add_range(&self, lo: usize, hi: usize) -> bool {
        let first = !self.is_mapped();
        let Some(free) = self.ranges.iter().find(|r| r.lo.load(Ordering::Relaxed) == 0) else {
            return false;
        };
        free.hi.store(hi, Ordering::Relaxed);
        free.lo.store(lo, Ordering::Relaxed);
        if first && let Some(control) = self.endpoint.control() {
            let held = control.lock.hold(process::pid());
            control.note_mapping(process::pid(), 1);
            drop(held);
        }
        true
    }

    /// Forgets `lo..hi`, which is not mapped any more. Returns whether anything of ours was there.
    pub fn cut_range(&self, lo: usize, hi: usize) -> bool {
        let mut hit = false;
        let mut tail = None;
        for r in &self.ranges {
            let (a, b) = (r.lo.load(Ordering::Relaxed), r.hi.load(Ordering::Relaxed));
            if a == 0 || hi <= a || b <= lo {
                continue;
            }
            hit = true;
            match (lo > a, hi < b) {
                (false, false) => r.lo.store(0, Ordering::Relaxed),
                (true, false) => r.hi.store(lo, Ordering::Relaxed),
                (false, true) => r.lo.store(hi, Ordering::Relaxed),
                (true, true) => {
                    r.hi.store(lo, Ordering::Relaxed);
                    tail = Some((hi, b));
                }
            }
        }
        if let Some((lo, hi)) = tail {
            self.add_range(lo, hi);
        }
        if hit && !self.is_mapped() {
            if let Some(control) = self.endpoint.control() {
                let held = control.lock.hold(process::pid());
                control.note_mapping(process::pid(), -1);
                drop(held);
            }
            let orphan = self.orphan.swap(-1, Ordering::SeqCst);
            if orphan >= 0 {
                guard::forget(self);
                guard::quiesce(self, orphan);
                fdtable::close_private(orphan);
            }
        }
        hit
    }

    /// A number by which the real socket can be reached, or -1.
    pub fn any_fd(&self) -> i32 {
        let orphan = self.orphan.load(Ordering::Relaxed);
        if orphan >= 0 { orphan } else { fdtable::find(self) }
    }

    /// Whether a descriptor leads to this socket, as a number of the client's or as our own.
    pub fn is_reached_by(&self, fd: i32) -> bool {
        self.orphan.load(Ordering::SeqCst) == fd || fdtable::leads_to(fd, self)
    }

    /// Begins work with it. `false`: it is being made or buried, and not to be touched.
    #[inline]
    pub fn try_use(&self) -> bool {
        if self.users.fetch_add(1, Ordering::AcqRel) & CLAIMED != 0 {
            self.users.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        true
    }

    /// Ends a hook's work with it; the last one out of a dead one takes its memory away.
    #[inline]
    pub fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 && self.is_over() {
            self.bury();
        }
    }

    fn is_over(&self) -> bool {
        self.fds.load(Ordering::Acquire) == 0 && self.orphan.load(Ordering::Relaxed) < 0 && !self.is_mapped()
    }

    /// Claims it for this thread alone, if nobody works with it.
    pub fn claim(&self) -> bool {
        self.users.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claims it for the only thread that is at work with it, which is the caller's, waiting a few milliseconds for others (the
    /// backing thread looks in for a moment now and then).
    pub fn claim_alone(&self) -> bool {
        for _ in 0..50 {
            if self.users.compare_exchange(1, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return true;
            }
            sys::nap(100_000);
        }
        false
    }

    /// Ends a claim, with `users` of them at work from now on.
    pub fn unclaim(&self, users: u32) {
        self.users.fetch_sub(CLAIMED - users, Ordering::AcqRel);
    }

    #[cold]
    fn bury(&self) {
        if !self.claim() {
            return;
        }
        if self.is_over() && self.live.load(Ordering::Relaxed) {
            guard::forget(self);
            self.endpoint.move_descriptors(fdtable::release_private);
            // SAFETY: claimed: nobody else is inside, and whoever comes is turned away.
            unsafe { self.endpoint.reset() };
            self.duty.free();
            self.live.store(false, Ordering::Release);
        }
        self.unclaim(0);
    }

    /// The one line about a closed endpoint.
    pub fn summary(&self, fd: i32) {
        if let Some(control) = self.endpoint.control() {
            let c = &control.counters;
            let n = |w: &AtomicU64| w.load(Ordering::Relaxed);
            info!(
                "fd {fd} closed: family {}, rx {} frames {} datagrams {} copies {} overruns, tx {} frames, {} system calls",
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
