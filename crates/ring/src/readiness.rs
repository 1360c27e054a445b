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
    let Some(rx) = endpoint.rx() else {
        return false;
    };
    let head = control.rx_head.load(Ordering::Acquire) % rx.geometry().frame_nr();
    let outstanding = control.rx_outstanding.load(Ordering::Relaxed).min(rx.geometry().frame_nr());
    if outstanding == 0 {
        return false;
    }
    let newest = rx.geometry().prev(head);
    if crate::memory::Frames::status(rx, newest) == crate::abi::status::VALID {
        return true;
    }
    let oldest = control.rx_oldest.load(Ordering::Relaxed) % rx.geometry().frame_nr();
    ring::valid_frame(rx, oldest, head, outstanding).0
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
