//! What `lock.rs` asks of the system, over loom.
//!
//! Loom takes `SeqCst` accesses for acquire and release only, and knows sequential consistency of fences. So they are here what
//! x86-64 makes of them: whatever writes is a fence on both sides, a load is a plain load (and may pass earlier stores).
//!
//! Sleeps have no time-out: the lock must not need it, but for a holder that is dead.

use loom::sync::atomic::{self, fence};
use loom::sync::{Condvar, Mutex};
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, SeqCst};

/// The process id of a holder that has been killed.
pub const DEAD: u32 = 99;

#[derive(Default)]
pub struct AtomicU32 {
    word: atomic::AtomicU32,
    gate: Mutex<()>,
    sleepers: Condvar,
}

impl std::fmt::Debug for AtomicU32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtomicU32")
    }
}

fn around<T>(order: Ordering, f: impl FnOnce() -> T) -> T {
    if order != SeqCst {
        return f();
    }
    fence(SeqCst);
    let result = f();
    fence(SeqCst);
    result
}

/// The order without sequential consistency, which the fences give.
fn weaker(order: Ordering, seq_cst: Ordering) -> Ordering {
    if order == SeqCst { seq_cst } else { order }
}

impl AtomicU32 {
    pub fn new(value: u32) -> AtomicU32 {
        AtomicU32 { word: atomic::AtomicU32::new(value), gate: Mutex::new(()), sleepers: Condvar::new() }
    }
    pub fn load(&self, order: Ordering) -> u32 {
        self.word.load(weaker(order, Acquire))
    }
    pub fn swap(&self, value: u32, order: Ordering) -> u32 {
        around(order, || self.word.swap(value, weaker(order, AcqRel)))
    }
    pub fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        around(order, || self.word.fetch_add(value, weaker(order, AcqRel)))
    }
    pub fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        around(order, || self.word.fetch_sub(value, weaker(order, AcqRel)))
    }
    pub fn compare_exchange(&self, now: u32, new: u32, ok: Ordering, fail: Ordering) -> Result<u32, u32> {
        around(ok, || self.word.compare_exchange(now, new, weaker(ok, AcqRel), weaker(fail, Relaxed)))
    }
}

/// The kernel compares under the lock of its hash bucket, which a waker takes as well.
pub fn futex_wait(word: &AtomicU32, value: u32, _millis: u64) {
    let gate = word.gate.lock().unwrap();
    if word.word.load(Acquire) != value {
        return;
    }
    if value & !(1 << 31) == DEAD {
        // The time-out.
        drop(gate);
        loom::thread::yield_now();
        return;
    }
    drop(word.sleepers.wait(gate).unwrap());
}

pub fn futex_wake(word: &AtomicU32, count: u32) {
    assert_eq!(count, 1);
    let _gate = word.gate.lock().unwrap();
    word.sleepers.notify_one();
}

#[derive(Clone, Copy, Debug)]
pub struct SignalMask;

pub fn block_signals() -> SignalMask {
    SignalMask
}

pub fn restore_signals(_: SignalMask) {}

pub fn is_dead(pid: u32) -> bool {
    pid == DEAD
}
