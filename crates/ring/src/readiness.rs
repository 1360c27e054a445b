//! What `poll` answers for a socket with rings (`netlink_poll` of 4.4): a pure look at shared words.

use crate::control::Control;
use crate::endpoint::Endpoint;
use crate::ring;
use core::sync::atomic::Ordering;

/// `POLLIN`
pub const IN: i16 = 0x1;
/// `POLLOUT`
pub const OUT: i16 = 0x4;
/// `POLLERR`
pub const ERR: i16 = 0x8;
/// `POLLNVAL`
pub const NVAL: i16 = 0x20;
/// `POLLRDNORM`
pub const RDNORM: i16 = 0x40;
/// `POLLWRNORM`
pub const WRNORM: i16 = 0x100;
/// `POLLWRBAND`
pub const WRBAND: i16 = 0x200;

/// Whether the client has something to read: a message for `recv`, or any `VALID` frame.
///
/// # Staleness
/// Without the lock the head may be a moment old. A message published in that moment is not missed by a waiter that
/// follows the handshake of readiness.md, since the real socket stays readable for it.
#[inline]
pub fn readable(endpoint: &Endpoint, control: &Control) -> bool {
    if control.copies.load(Ordering::Acquire) > 0 {
        return true;
    }
    if control.rx_outstanding.load(Ordering::Relaxed) == 0 {
        return false;
    }
    // Before anything else is looked at: what is published meanwhile makes the next look a new one.
    let published = control.rx_published.load(Ordering::Acquire).wrapping_add(1);
    if endpoint.quiet_at.load(Ordering::Relaxed) == published {
        // Frames that were not VALID do not become so but by being published.
        return false;
    }
    let Some(rx) = endpoint.rx() else {
        return false;
    };
    let head = rx.geometry().wrap(control.rx_head.load(Ordering::Acquire));
    let outstanding = control.rx_outstanding.load(Ordering::Relaxed).min(rx.geometry().frame_nr());
    let newest = rx.geometry().prev(head);
    if rx.frame(newest).status() == crate::abi::status::VALID {
        return true;
    }
    let oldest = rx.geometry().wrap(control.rx_oldest.load(Ordering::Relaxed));
    let found = ring::valid_frame(rx, oldest, head, outstanding).0;
    // In strict mode a client may make frames VALID itself, as it could with 4.5.
    if !found && !endpoint.strict.load(Ordering::Relaxed) {
        endpoint.quiet_at.store(published, Ordering::Relaxed);
    }
    found
}

impl Endpoint {
    /// Whether the frame that was filled last is still the client's to read, or a message waits for its `recv`: it has not come to
    /// the end of what it was given. One look, for whoever only wants to know how the client is getting on.
    pub fn holds_newest(&self) -> bool {
        let (Some(control), Some(rx)) = (self.control(), self.rx()) else { return false };
        let newest = rx.geometry().prev(rx.geometry().wrap(control.rx_head.load(Ordering::Acquire)));
        control.copies.load(Ordering::Relaxed) > 0 || rx.frame(newest).status() == crate::abi::status::VALID
    }
}

/// The events of a socket with a receive ring.
pub fn mask(endpoint: &Endpoint, control: &Control) -> i16 {
    let mut mask = OUT | WRNORM | WRBAND;
    if readable(endpoint, control) {
        mask |= IN | RDNORM;
    }
    if control.error.load(Ordering::Relaxed) != 0 {
        mask |= ERR;
    }
    mask
}
