//! What `lock.rs` asks of the system, over loom.
//!
//! Sleeps have no time-out: the lock must not need it, but for a holder that is dead.

use crate::words;
use loom::sync::{Condvar, Mutex};
use std::sync::atomic::Ordering::Acquire;

/// The process id of a holder that has been killed.
pub const DEAD: u32 = 99;

#[derive(Default)]
pub struct AtomicU32 {
    word: words::AtomicU32,
    gate: Mutex<()>,
    sleepers: Condvar,
}

impl std::fmt::Debug for AtomicU32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtomicU32")
    }
}

impl AtomicU32 {
    pub fn new(value: u32) -> AtomicU32 {
        AtomicU32 { word: words::AtomicU32::new(value), gate: Mutex::new(()), sleepers: Condvar::new() }
    }
}

impl std::ops::Deref for AtomicU32 {
    type Target = words::AtomicU32;
    fn deref(&self) -> &words::AtomicU32 {
        &self.word
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
