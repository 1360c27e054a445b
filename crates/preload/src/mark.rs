//! The mark that tells a process from its fork child, on a page that the kernel wipes at a fork; and that the child takes its
//! copy of the tables over once, before any of its threads looks at it.

use crate::atomic::{AtomicU32, Ordering, spin_loop};

/// In a fork child: nothing has been done yet.
const WIPED: u32 = 0;
const OURS: u32 = 1;
const SETTLING: u32 = 2;

/// All zeroes is how a child finds it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Mark(AtomicU32);

impl Mark {
    /// This process's, which has no tables of another's.
    pub fn make(&self) {
        self.0.store(OURS, Ordering::Relaxed);
    }

    /// Whether the tables are this process's own.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.0.load(Ordering::Acquire) == OURS
    }

    /// Has them taken over, unless that was done. When this returns they are.
    pub fn settle(&self, take_over: impl FnOnce()) {
        match self.0.compare_exchange(WIPED, SETTLING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                take_over();
                self.0.store(OURS, Ordering::Release);
            }
            Err(OURS) => {}
            // Another thread of the child is at it.
            Err(_) => {
                while self.0.load(Ordering::Acquire) == SETTLING {
                    spin_loop();
                }
            }
        }
    }
}
