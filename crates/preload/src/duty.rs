//! What the backing thread knows of one endpoint: data only; `guard` says what it means.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// The socket is not watched: the client is in a wait of ours, or has just called.
pub const OFF: u32 = 0;
/// Watched for its next message.
pub const ARMED: u32 = 1;
/// Not watched; the client is expected to call within a tick.
pub const ACTIVE: u32 = 2;
/// Watched for every message, which the thread moves at once.
pub const DRIVING: u32 = 3;

/// The backing thread's view of one endpoint.
#[derive(Debug)]
pub struct Duty {
    /// One of the states of `guard`.
    pub state: AtomicU32,
    /// The descriptor it is registered by plus one; 0 when it is not.
    pub fd: AtomicI32,
    /// Waits by the client, counted at their start.
    pub waits: AtomicU64,
    /// Client threads inside a wait.
    pub inside: AtomicU32,
    /// When a wait last ended ([`nlmmap_ring::sys::ticks`]).
    pub left: AtomicU64,
    /// `waits` when the thread last looked.
    pub seen: AtomicU64,
    /// Looks of the driving thread in a row that found nothing to move.
    pub useless: AtomicU32,
    /// Sends in a row, while the thread drives, that left it nothing.
    pub alone: AtomicU32,
    /// Messages moved when the driving thread last looked.
    pub moved: AtomicU64,
    /// The descriptor the thread is working with plus one: it must not be closed meanwhile, or its number may be another
    /// socket's by the time the thread receives.
    pub using: AtomicI32,
    /// Looks in a row that the thread has left to a sender.
    pub passed: AtomicU32,
    /// Looks in a row that found no call of a client that has frames to work through.
    pub trusted: AtomicU32,
}

impl Duty {
    /// Back to nothing.
    pub fn free(&self) {
        self.state.store(OFF, Ordering::Relaxed);
        self.fd.store(0, Ordering::Relaxed);
        self.waits.store(0, Ordering::Relaxed);
        self.inside.store(0, Ordering::Relaxed);
        self.useless.store(0, Ordering::Relaxed);
        self.alone.store(0, Ordering::Relaxed);
        self.passed.store(0, Ordering::Relaxed);
        self.trusted.store(0, Ordering::Relaxed);
    }

    /// In a fork child nobody waits and no thread watches.
    pub fn after_fork(&self) {
        self.state.store(OFF, Ordering::Relaxed);
        self.fd.store(0, Ordering::Relaxed);
        self.inside.store(0, Ordering::Relaxed);
        self.using.store(0, Ordering::Relaxed);
    }
}
