//! What the backing thread knows of one endpoint, and how client threads and it pass the work to each other; `guard` says when.
//!
//! Whoever changes the state has the kernel told what that state waits for ([`Duty::follow`]).

use crate::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// The socket is not watched: the client is in a wait of ours, or has just called.
pub const OFF: u32 = 0;
/// Watched for its next message.
pub const ARMED: u32 = 1;
/// Not watched; the client is expected to call within a tick.
pub const ACTIVE: u32 = 2;
/// Watched for every message, which the thread moves at once.
pub const DRIVING: u32 = 3;

/// Readable.
pub const EPOLLIN: u32 = 1;
/// Writable.
pub const EPOLLOUT: u32 = 4;
/// Once for each arrival.
pub const EPOLLET: u32 = 1 << 31;
/// Once.
pub const EPOLLONESHOT: u32 = 1 << 30;

/// What a state has the kernel wake the thread for. A socket can always be written to: that wakes it once, if it sleeps, to look
/// at a client that is expected to call.
pub fn events(state: u32) -> u32 {
    match state {
        ARMED => EPOLLIN | EPOLLONESHOT,
        ACTIVE => EPOLLOUT | EPOLLONESHOT,
        DRIVING => EPOLLIN | EPOLLET,
        _ => 0,
    }
}

/// The descriptor that the thread is working with plus one: it must not be closed meanwhile, or its number may be another socket's
/// by the time the thread receives.
///
/// First the thread says so, then it looks whether the number still leads to the endpoint; whoever closes the number leads it away
/// first, then looks here. All four in one order (SeqCst), so that one of them sees the other.
#[derive(Debug, Default)]
pub struct Using(AtomicI32);

impl Using {
    /// The thread is about to look whether the number is right.
    #[inline]
    pub fn begin(&self, fd: i32) {
        self.0.store(fd + 1, Ordering::SeqCst);
    }

    /// It works with none.
    #[inline]
    pub fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Whether it works with this one.
    #[inline]
    pub fn is(&self, fd: i32) -> bool {
        self.0.load(Ordering::SeqCst) == fd + 1
    }
}

/// The backing thread's view of one endpoint.
#[derive(Debug, Default)]
pub struct Duty {
    /// One of the states above.
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
    /// What the thread works with at this moment.
    pub using: Using,
    /// Looks in a row that the thread has left to a sender.
    pub passed: AtomicU32,
    /// Looks in a row that found no call of a client that has frames to work through.
    pub trusted: AtomicU32,
}

impl Duty {
    /// Registers what the state asks for, and again until it still asks for that: `register` is handed the events.
    ///
    /// Two that change the state one after the other may register in the other order. Whoever registers last then finds that the
    /// state is not what it registered, and does it again: the kernel orders registrations, each of which comes after a change
    /// and before a look.
    #[inline]
    pub fn follow(&self, register: impl Fn(u32) -> bool) -> bool {
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let done = register(events(state));
            if self.state.load(Ordering::SeqCst) == state {
                return done;
            }
        }
    }

    /// From one state to another; whether it was in that one.
    #[inline]
    pub fn change(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// A client thread is about to wait: whether the thread is to be told that it need not watch.
    #[inline]
    pub fn enter(&self) -> bool {
        self.inside.fetch_add(1, Ordering::SeqCst);
        self.waits.fetch_add(1, Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        let watched = state == ARMED || state == DRIVING;
        if watched {
            self.state.store(OFF, Ordering::SeqCst);
        }
        watched
    }

    /// A client thread has waited: whether somebody has to be set to watch, since nobody does.
    #[inline]
    pub fn leave(&self) -> bool {
        // Before the look, both in the order that `idle` is in: one of them sees the other.
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == OFF
    }

    /// The thread has found one wait that lasts, and leaves the socket to it. Whether it has to be watched after all, since the wait
    /// ended in between and found nobody to arm for: then it is `ARMED`.
    pub fn idle(&self) -> bool {
        self.change(ACTIVE, OFF) && self.inside.load(Ordering::SeqCst) == 0 && self.change(OFF, ARMED)
    }

    /// From driving, or being about to, to watching how the client does by itself. Whether that is a change.
    pub fn hand_back(&self) -> bool {
        let watched = |state: u32| matches!(state, ARMED | DRIVING).then_some(ACTIVE);
        self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, watched).is_ok()
    }

    /// A watched socket has a message: from `ARMED` to `next`, judged after a tick and not at once. Whether that is a change.
    pub fn fired(&self, next: u32) -> bool {
        let changed = self.change(ARMED, next);
        if changed {
            self.seen.store(self.waits.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        }
        changed
    }

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
        self.using.end();
    }
}
