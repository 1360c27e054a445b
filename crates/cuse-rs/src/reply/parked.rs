//! Replies set aside, for which the device and an interrupt of the caller compete.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::Reply;
use crate::Errno;
use crate::channel::lock;

/// A reply that waits: cheap to clone, and the last clone dropped answers `EIO`.
pub struct Parked<R>(Arc<Mutex<Option<R>>>);

impl<R: Reply> Parked<R> {
    pub(super) fn new(reply: R) -> Self {
        let answer = reply.answer();
        let (channel, unique) = (answer.channel.clone(), answer.unique);
        let slot = Arc::new(Mutex::new(Some(reply)));
        // Weak: the hook must not keep alive a reply that the device has forgotten.
        let weak = Arc::downgrade(&slot);
        channel.on_interrupt(
            unique,
            Box::new(move || {
                let taken = weak.upgrade().and_then(|slot| lock(&slot).take());
                if let Some(reply) = taken {
                    reply.fail(Errno::EINTR);
                }
            }),
        );
        Self(slot)
    }

    /// The reply, unless an interrupt or another clone's `take` had it first.
    pub fn take(&self) -> Option<R> {
        lock(&self.0).take()
    }

    /// Whether the reply is still there.
    pub fn is_waiting(&self) -> bool {
        lock(&self.0).is_some()
    }
}

impl<R> Clone for Parked<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R> fmt::Debug for Parked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parked")
    }
}
