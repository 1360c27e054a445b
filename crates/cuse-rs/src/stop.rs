//! Asking a session to end.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Ends a session from anywhere: another thread, a signal handling thread, the device itself.
#[derive(Clone)]
pub struct StopToken(Arc<Stop>);

struct Stop {
    flag: AtomicBool,
    event: OwnedFd,
}

impl StopToken {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Stop { flag: AtomicBool::new(false), event })))
    }

    /// Asks the reader threads to end after the request they are at.
    pub fn stop(&self) {
        self.0.flag.store(true, Ordering::Release);
        // The eventfd stays readable, so one write wakes every thread. It cannot overflow: even
        // then it would be readable.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Readable once `stop` was called.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// Whether `stop` was called.
    pub fn is_stopped(&self) -> bool {
        self.0.flag.load(Ordering::Acquire)
    }
}

impl fmt::Debug for StopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopToken(stopped: {})", self.is_stopped())
    }
}

/// Stops the session when it goes out of scope, by return or by panic.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a StopToken);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
