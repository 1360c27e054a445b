//! Waking those who wait in `poll`, `select` or `epoll`.
//!
//! The kernel asks POLL with a handle (`kh`) and, when somebody is about to sleep, asks to be told
//! once when the answer may have changed. That no wake-up is lost rests on this order:
//!
//! - POLL: note `kh` and set `armed`, fence, then let the device look at its state (P1, P2).
//! - The device: change its state, then `notify`: fence, then take `armed` (N1, N2).
//!
//! Both fences are sequentially consistent, so either P2 sees the state of N1, and the answer is
//! right, or N2 sees `armed` of P1, and the kernel is told. A sleeper that is told asks POLL again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crate::channel::Channel;

/// The `events` and `revents` of `poll(2)`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PollFlags(u32);

impl PollFlags {
    /// Something can be read.
    pub const IN: Self = Self(0x1);
    /// Something urgent can be read.
    pub const PRI: Self = Self(0x2);
    /// Something can be written.
    pub const OUT: Self = Self(0x4);
    /// An error is pending.
    pub const ERR: Self = Self(0x8);
    /// The other side has hung up.
    pub const HUP: Self = Self(0x10);
    /// As [`PollFlags::IN`]; drivers give both.
    pub const RDNORM: Self = Self(0x40);
    /// As [`PollFlags::OUT`]; drivers give both.
    pub const WRNORM: Self = Self(0x100);
    /// The other side has shut down its sending half.
    pub const RDHUP: Self = Self(0x2000);

    /// No event.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The flags with these bits, which are those of `poll(2)` on x86 and most machines.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits as `poll(2)` has them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is in here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether anything of `other` is in here.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for PollFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for PollFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for PollFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PollFlags({:#x})", self.0)
    }
}

pub(crate) struct PollState {
    channel: Arc<Channel>,
    kh: AtomicU64,
    armed: AtomicBool,
}

impl PollState {
    pub(crate) fn new(channel: Arc<Channel>) -> Arc<Self> {
        Arc::new(Self { channel, kh: AtomicU64::new(0), armed: AtomicBool::new(false) })
    }

    /// P1 of the module's argument; the device is asked after this.
    pub(crate) fn arm(&self, kh: u64) {
        self.kh.store(kh, Ordering::Relaxed);
        // Release: who takes `armed` sees the handle that was noted with it.
        self.armed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The file is released: nobody can wait on it any more.
    pub(crate) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

/// Wakes the waiters of one open file; usable from any thread, cheap to clone, and harmless once
/// the file is closed or the session has ended.
#[derive(Clone)]
pub struct PollNotifier(Arc<PollState>);

impl PollNotifier {
    pub(crate) fn new(state: Arc<PollState>) -> Self {
        Self(state)
    }

    /// Makes the kernel ask [`Device::poll`](crate::Device::poll) again for everybody who waits.
    ///
    /// Call it **after** the state that `poll` reports has changed. It costs a system call only
    /// when somebody has gone to sleep since the last call; returns whether it made one.
    pub fn notify(&self) -> bool {
        // N2 of the module's argument: orders the caller's change before the look at `armed`.
        fence(Ordering::SeqCst);
        if !self.0.armed.load(Ordering::Relaxed) || !self.0.armed.swap(false, Ordering::AcqRel) {
            return false;
        }
        // A failure means that the connection is gone, and with it everybody who waited.
        self.0.channel.notify_poll(self.0.kh.load(Ordering::Relaxed)).is_ok()
    }
}

impl fmt::Debug for PollNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollNotifier").field("armed", &self.0.armed).finish_non_exhaustive()
    }
}
