//! Atomic words over loom, for the code that models take from elsewhere.
//!
//! Loom takes `SeqCst` accesses for acquire and release only, and knows sequential consistency of fences. So they are here what
//! x86-64 makes of them: whatever writes is a fence on both sides, a load is a plain load (and may pass earlier stores).

use loom::sync::atomic::{self, fence};
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

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

macro_rules! word {
    ($name:ident, $value:ty) => {
        #[derive(Default)]
        pub struct $name(atomic::$name);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        #[allow(dead_code, reason = "what somebody needs of one of them")]
        impl $name {
            pub fn new(value: $value) -> $name {
                $name(atomic::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(weaker(order, Acquire))
            }
            pub fn store(&self, value: $value, order: Ordering) {
                around(order, || self.0.store(value, weaker(order, Release)));
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                around(order, || self.0.swap(value, weaker(order, AcqRel)))
            }
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                around(order, || self.0.fetch_add(value, weaker(order, AcqRel)))
            }
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                around(order, || self.0.fetch_sub(value, weaker(order, AcqRel)))
            }
            pub fn compare_exchange(
                &self,
                now: $value,
                new: $value,
                ok: Ordering,
                fail: Ordering,
            ) -> Result<$value, $value> {
                around(ok, || self.0.compare_exchange(now, new, weaker(ok, AcqRel), weaker(fail, Relaxed)))
            }
            pub fn fetch_update(
                &self,
                ok: Ordering,
                fail: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                around(ok, || self.0.fetch_update(weaker(ok, AcqRel), weaker(fail, Relaxed), f))
            }
        }
    };
}

word!(AtomicU32, u32);
word!(AtomicI32, i32);
