//! One pump at a time: a lock in shared memory, across threads and forked processes.
//!
//! The word is 0 when free, else the holder's process id (or thread id, of a thread that may end alone), with [`CONTENDED`] when
//! somebody may sleep. It is taken with all signals blocked where the process catches any ([`Quiet`]), so a handler never finds it held
//! by the frame it interrupted, and no `siglongjmp` can leave it behind.
//! A pump never blocks while it holds the lock; a holder that is gone (killed in between) is found by that id.

use crate::sys::{self, AtomicU32};
use core::sync::atomic::{AtomicBool, Ordering};

const CONTENDED: u32 = 1 << 31;
/// After so many sleeps of [`NAP`] behind the same holder, its life is checked.
const PATIENCE: u32 = 5;
const NAP: u64 = 20;

/// A lock word. All zeroes is free.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Lock(AtomicU32);

/// Whether this process catches any signal. Only then is blocking them worth its system calls: without a handler nothing
/// can run above a pump.
static CATCHES: AtomicBool = AtomicBool::new(true);

/// Tells whether this process catches any signal; it does until told otherwise.
pub fn set_catches_signals(catches: bool) {
    CATCHES.store(catches, Ordering::Relaxed);
}

/// Signals of this thread, blocked if the process catches any. Given back on drop.
#[derive(Debug)]
pub struct Quiet(Option<sys::SignalMask>);

impl Quiet {
    /// Blocks them.
    #[inline]
    pub fn begin() -> Quiet {
        Quiet(if CATCHES.load(Ordering::Relaxed) { Some(sys::block_signals()) } else { None })
    }

    /// The thread's own set, if signals are blocked: what a sleep that gives way to them is called with.
    pub fn mask(&self) -> Option<sys::SignalMask> {
        self.0
    }

    /// Runs `f` with the thread's own signals.
    pub fn with_signals<R>(&self, f: impl FnOnce() -> R) -> R {
        match self.0 {
            None => f(),
            Some(mask) => {
                sys::restore_signals(mask);
                let result = f();
                sys::block_signals();
                result
            }
        }
    }
}

impl Drop for Quiet {
    #[inline]
    fn drop(&mut self) {
        if let Some(mask) = self.0 {
            sys::restore_signals(mask);
        }
    }
}

/// A held lock, by the process that holds it. Dropping it unlocks, and gives back the signals that were blocked for it.
#[derive(Debug)]
pub struct Held<'a> {
    lock: &'a Lock,
    _quiet: Option<Quiet>,
}

impl Lock {
    /// A free lock.
    pub fn new() -> Lock {
        Lock(AtomicU32::new(0))
    }

    /// Whether nobody pumps at this instant. Sequentially consistent: the other half of the waiters' handshake
    /// (readiness.md, "No wake-up is lost").
    #[inline]
    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    /// Takes the lock for process `pid`, sleeping while somebody else has it.
    #[inline]
    pub fn hold(&self, pid: u32) -> Held<'_> {
        let quiet = Quiet::begin();
        let mut held = self.hold_quietly(pid);
        held._quiet = Some(quiet);
        held
    }

    /// As [`Self::hold`], by somebody who has seen to the signals.
    #[inline]
    pub fn hold_quietly(&self, pid: u32) -> Held<'_> {
        let me = pid & !CONTENDED;
        if self.0.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            self.contend(me | CONTENDED);
        }
        Held { lock: self, _quiet: None }
    }

    #[cold]
    fn contend(&self, me: u32) {
        let (mut holder, mut naps) = (0, 0);
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            if seen == 0 {
                if self.0.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    return;
                }
                continue;
            }
            if seen & CONTENDED == 0
                && self.0.compare_exchange(seen, seen | CONTENDED, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            sys::futex_wait(&self.0, seen | CONTENDED, NAP);
            naps = if seen & !CONTENDED == holder { naps + 1 } else { 0 };
            holder = seen & !CONTENDED;
            if naps >= PATIENCE && holder != me & !CONTENDED {
                naps = 0;
                // The state a dead holder leaves is consistent enough to go on: frames are published one by one, and heads
                // are stored before the words that depend on them (protocol.md, "A pump that dies").
                if sys::is_dead(holder)
                    && self.0.compare_exchange(seen | CONTENDED, me, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    return;
                }
            }
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.lock.0.swap(0, Ordering::SeqCst) & CONTENDED != 0 {
            sys::futex_wake(&self.lock.0, 1);
        }
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::vec::Vec;

    #[test]
    fn excludes() {
        let lock = Arc::new((Lock::new(), AtomicU64::new(0)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = lock.clone();
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let held = lock.0.hold(sys::getpid());
                        let n = lock.1.load(Ordering::Relaxed);
                        lock.1.store(n + 1, Ordering::Relaxed);
                        drop(held);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(lock.1.load(Ordering::Relaxed), 80_000);
        assert!(lock.0.is_free());
    }

    #[test]
    fn outlives_its_holder() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let lock = Lock(AtomicU32::new(pid)); // a zombie holds it
        drop(lock.hold(sys::getpid()));
        assert!(lock.is_free());
        child.wait().unwrap();
    }

    #[test]
    fn outlives_a_thread_that_holds_it() {
        let (say, told) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            say.send(sys::gettid()).unwrap();
            let _ = ends.recv();
        });
        let tid = told.recv().unwrap();
        assert!(!sys::is_dead(tid), "a thread that is there");
        let lock = Lock(AtomicU32::new(tid));
        drop(end);
        thread.join().unwrap();
        drop(lock.hold(sys::getpid()));
        assert!(lock.is_free());
    }
}
