//! Strict mode: what one socket of the process sends to another is in that one's ring when the send returns.
//!
//! The kernel of 4.5 delivered within the send, so that a ring that fills refused the very next message. A receiver in another
//! process takes it in by a thread of its own, a few microseconds later (compat.md).

use super::wait::service;
use crate::fdtable;
use crate::local::Local;
use core::ffi::c_int;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::{Fd, Socket};
use nlmmap_ring::sys::{self, MsgHdr, SockaddrNl};

/// Whether a message from `fd` to `name` is for others than the kernel, and whom it can reach: a port id, 0 for anybody.
unsafe fn reaches(fd: c_int, name: *const u8, namelen: u32) -> Option<u32> {
    let to = if name.is_null() {
        // The connected peer; the kernel, if there is none.
        Fd(fd).peer().ok()?
    } else if (namelen as usize) < size_of::<SockaddrNl>() || !sys::is_plausible(name) {
        return Some(0);
    } else {
        // SAFETY: the caller's duty.
        unsafe { name.cast::<SockaddrNl>().read_unaligned() }
    };
    match (to.portid, to.groups) {
        (0, 0) => None,
        (portid, 0) => Some(portid),
        _ => Some(0),
    }
}

/// Whether a message to where `msg` says concerns this module at all.
///
/// # Safety
/// The name of `msg` is readable for its length.
pub(super) unsafe fn reaches_others(from: &Local, fd: c_int, msg: &MsgHdr) -> bool {
    // SAFETY: the caller's duty.
    from.endpoint.strict.load(Relaxed) && unsafe { reaches(fd, msg.name, msg.namelen) }.is_some()
}

/// `from` has sent a message by `fd` to where `msg` says.
///
/// # Safety
/// The name of `msg` is readable for its length.
pub(super) unsafe fn deliver(from: &Local, fd: c_int, msg: &MsgHdr) {
    if !from.endpoint.strict.load(Relaxed) {
        return;
    }
    // SAFETY: the caller's duty.
    let Some(portid) = (unsafe { reaches(fd, msg.name, msg.namelen) }) else { return };
    let family = from.endpoint.family.load(Relaxed);
    for local in fdtable::all() {
        if !local.live.load(Relaxed) || local.endpoint.family.load(Relaxed) != family {
            continue;
        }
        let fd = local.any_fd();
        let Some(entered) = fdtable::enter(fd) else { continue };
        // One that sends takes in itself what has come by then: the answer to its own request, of which nobody else knows yet.
        let sends = entered.endpoint.sending.load(Acquire) > u32::from(core::ptr::eq(entered, from));
        if core::ptr::eq(entered, local)
            && !sends
            && entered.endpoint.rx().is_some()
            && (portid == 0 || Fd(fd).portid() == Ok(portid))
        {
            service(entered, fd, Context::Send);
        }
        entered.leave();
    }
}
