//! Sockets that are endpoints of a device node: `nlmmap run --device PATH`.
//!
//! With `NLMMAP_DEVICE` set, `socket(AF_NETLINK, ...)` opens the node, and the descriptor that the program gets *is* that
//! open file: `poll`, `select`, `epoll`, `dup`, `fork`, `fcntl` and `close` are the node's own, and nothing in this process
//! moves a frame. What a file does not have, the socket calls, are ioctls here.
//!
//! Each function here has the name and signature of its hook, and stands in the chain between the hook and the next object:
//! a descriptor that is an endpoint of the device is served, any other is handed on. Without the variable nothing of this is
//! in the chain, and costs nothing.
//!
//! | module | promise |
//! | --- | --- |
//! | [`chain`] | stands behind the hooks, and hands on |
//! | [`table`] | which descriptors are endpoints, and where their rings are mapped |
//! | [`node`] | opening the node, and knowing its files again |
//! | [`request`] | one ioctl, and memory for its argument |
//! | [`names`] | `bind`, `connect`, `getsockname`, `getpeername`, `shutdown`, `ioctl` |
//! | [`options`] | socket options, the rings among them |
//! | [`send`], [`receive`] | messages |
//! | [`map`] | the client's view of the rings |
//! | [`descriptors`] | `close`, `dup` and the like |
#![allow(missing_docs, reason = "the names and duties of C functions that every manual documents")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the duties are those of the C function of the same name, as the module says"
)]

pub mod chain;
pub mod descriptors;
pub mod map;
pub mod names;
pub mod node;
pub mod options;
pub mod receive;
pub mod request;
pub mod send;
pub mod table;

use crate::next::{errno, set_errno};
use core::ffi::c_int;
use nlmmap_ring::errno::{Errno, Result};
use table::Dev;

/// The endpoint of a descriptor that came from elsewhere (`exec`, `SCM_RIGHTS`): asked after a socket call on it has failed,
/// and only if for the reason that it is no socket, so that others pay nothing.
#[cold]
pub(crate) fn late(fd: c_int) -> Option<&'static Dev> {
    if errno() != Errno::NOTSOCK {
        return None;
    }
    let found = node::recognize(fd);
    if found.is_none() {
        set_errno(Errno::NOTSOCK);
    }
    found
}

/// `ENOTTY`: what is open under this number now knows no ioctl of ours, so it was closed without a call we see.
const GONE: Errno = Errno(25);

/// A C function's answer, and `None` when the descriptor has turned out to be no endpoint any more: hand the call on.
pub(crate) fn answer(fd: c_int, result: Result<usize>) -> Option<isize> {
    match result {
        Ok(n) => Some(n as isize),
        Err(GONE) => {
            table::remove(fd);
            None
        }
        Err(e) => {
            set_errno(e);
            Some(-1)
        }
    }
}

/// Serves a call if its descriptor is an endpoint, else hands it on, and looks once more when that fails.
macro_rules! device_or_next {
    ($fd:expr, $serve:expr, $next:expr) => {{
        let serve = $serve;
        if let Some(dev) = $crate::device::table::find($fd) {
            let saved = $crate::next::errno();
            if let Some(answer) = $crate::device::answer($fd, serve(dev)) {
                if answer >= 0 {
                    $crate::next::set_errno(saved);
                }
                return answer as _;
            }
        }
        let result = $next;
        if result == -1
            && let Some(dev) = $crate::device::late($fd)
            && let Some(answer) = $crate::device::answer($fd, serve(dev))
        {
            return answer as _;
        }
        result
    }};
}
pub(crate) use device_or_next;
