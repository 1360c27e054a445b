//! Who is at work with an endpoint: a count of uses, and one claim that keeps all others out.
//!
//! Whoever has found an endpoint in the table begins a use, and looks at the table once more: while the use lasts nobody can claim
//! it, so that it stays what it is. Whoever makes or buries it claims it first. The last use of what is over ends with a burial,
//! and so does a claim of it for another purpose: nothing that is over is left lying because somebody looked in just then.

use crate::atomic::{AtomicU32, Ordering};

/// One thread has it for itself. Below are the uses, those too that are about to be turned away.
const CLAIMED: u32 = 1 << 31;

/// All zeroes is nobody.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Users(AtomicU32);

impl Users {
    /// Begins a use. `false`: it is being made or buried, and not to be touched. (`is_over` and `bury` are those of [`Self::end`]:
    /// the claim may have ended by now, and who left meanwhile was not the last one.)
    #[inline]
    pub fn begin(&self, is_over: impl Fn() -> bool, bury: impl FnOnce()) -> bool {
        // Acquire: what the last claim has written is there.
        if self.0.fetch_add(1, Ordering::AcqRel) & CLAIMED != 0 {
            self.turn_away(is_over, bury);
            return false;
        }
        true
    }

    #[cold]
    fn turn_away(&self, is_over: impl Fn() -> bool, bury: impl FnOnce()) {
        self.end(is_over, bury);
    }

    /// The first use of what nobody knows of yet.
    pub fn begin_first(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// Ends a use; whether it was the last one. Never passes through zero: a child that was forked by a signal's handler above a
    /// hook leaves what its parent entered.
    #[inline]
    pub fn leave(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1)) == Ok(1)
    }

    /// Ends a use; the last one, of what `is_over` by now, with a burial.
    #[inline]
    pub fn end(&self, is_over: impl Fn() -> bool, bury: impl FnOnce()) {
        if self.leave() && is_over() {
            self.end_all(is_over, bury);
        }
    }

    #[cold]
    fn end_all(&self, is_over: impl Fn() -> bool, bury: impl FnOnce()) {
        while self.claim() {
            if is_over() {
                bury();
                self.unclaim(0);
                return;
            }
            // Somebody has come back to it in between. As a use, since it may be over again at the end of this.
            self.unclaim(1);
            if !self.leave() || !is_over() {
                return;
            }
        }
    }

    /// Whether one thread is at work with it, the caller's.
    #[inline]
    pub fn is_one(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    /// Claims it for this thread alone, if nobody works with it.
    pub fn claim(&self) -> bool {
        self.0.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claims it in exchange for the caller's use, if that is the only one.
    pub fn claim_alone(&self) -> bool {
        self.0.compare_exchange(1, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends a claim, with `uses` of the caller's from now on. None only by who knows that it need not be buried.
    pub fn unclaim(&self, uses: u32) {
        self.0.fetch_sub(CLAIMED - uses, Ordering::AcqRel);
    }

    /// In a fork child, where no other thread is: nobody is at work with it. `false`: it had been claimed, and is half of
    /// something. It stays claimed, for good.
    pub fn after_fork(&self) -> bool {
        if self.0.swap(0, Ordering::Relaxed) & CLAIMED == 0 {
            return true;
        }
        self.0.store(CLAIMED, Ordering::Relaxed);
        false
    }

    /// How many are at work with it, for tests.
    #[cfg(any(test, fuzzing))]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
