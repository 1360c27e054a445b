//! `setsockopt`, `getsockopt`.

use super::adopt::{self, NETLINK_ADD_MEMBERSHIP, NETLINK_NO_ENOBUFS, NETLINK_PKTINFO};
use crate::fdtable;
use crate::init;
use crate::local::Local;
use crate::log::info;
use crate::next::{self, set_errno};
use crate::process;
use crate::symbols::Ptr;
use core::ffi::{c_int, c_uint};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK};
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::errno::Errno;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, SOL_SOCKET};

/// Whether this process has ever asked for a ring.
pub static ASKED: AtomicBool = AtomicBool::new(false);

const SO_ERROR: c_int = 4;
const SO_PASSCRED: c_int = 16;
const SO_DOMAIN: c_int = 39;

pub unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: c_uint) -> c_int {
    if level == SOL_NETLINK && (name == NETLINK_RX_RING || name == NETLINK_TX_RING) {
        // SAFETY: the caller's duty.
        return unsafe { ring(fd, name, value, len) };
    }
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::setsockopt(fd, level, name, value, len) };
    };
    let saved = next::errno();
    // SAFETY: as above.
    let result = unsafe { next::setsockopt(fd, level, name, value, len) };
    if result == 0
        && len >= 4
        && let Some(control) = local.endpoint.control()
    {
        // SAFETY: the kernel has just read this word from there.
        let word = unsafe { value.cast::<i32>().read_unaligned() };
        after_set(local, control, fd, (level, name), word);
        set_errno(saved);
    }
    local.leave();
    result
}

/// What we asked of the socket ourselves stays asked, whatever the client says of it.
fn after_set(local: &Local, control: &Control, fd: c_int, option: (c_int, c_int), word: i32) {
    match option {
        (SOL_SOCKET, SO_PASSCRED) => {
            control.set(flag::PASSCRED, word != 0);
            if local.endpoint.rx().is_some() {
                let _ = sys::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, 1);
            }
        }
        (SOL_NETLINK, NETLINK_PKTINFO) => control.set(flag::PKTINFO, word != 0),
        (SOL_NETLINK, NETLINK_NO_ENOBUFS) => {
            control.set(flag::NO_ENOBUFS, word != 0);
            if word != 0 {
                // Senders that wait may go on (`netlink_setsockopt`).
                local.endpoint.forgive(&Fd(fd), process::pid());
            }
        }
        (SOL_NETLINK, NETLINK_ADD_MEMBERSHIP) if word > 32 => {
            let _ = sys::setsockopt(fd, SOL_NETLINK, NETLINK_PKTINFO, 1);
        }
        _ => {}
    }
}

unsafe fn ring(fd: c_int, name: c_int, value: Ptr, len: c_uint) -> c_int {
    let saved = next::errno();
    ASKED.store(true, Relaxed);
    // The kernel first: one that knows the option serves it, and a descriptor that is no netlink socket gets its own error.
    // SAFETY: handed on as it came.
    let result = unsafe { next::setsockopt(fd, SOL_NETLINK, name, value, len) };
    let refused = next::errno();
    if result == 0 || !matches!(refused, Errno::NOPROTOOPT | Errno::FAULT) {
        return result;
    }
    init::be_ready();
    if crate::found::STRICT.load(Relaxed) && !crate::rights::may_set_rings() {
        info!("fd {fd}: setting a ring needs CAP_NET_ADMIN in strict mode");
        set_errno(Errno::PERM);
        return -1;
    }
    match sys::getsockopt::<i32>(fd, SOL_SOCKET, SO_DOMAIN) {
        Ok(domain) if domain == i32::from(sys::AF_NETLINK) => {}
        Ok(_) => return -1,
        Err(e) => {
            info!("fd {fd}: no ring: the kernel does not say what socket it is (errno {})", e.0);
            return -1;
        }
    }
    match adopt::set_ring(fd, name, value.cast(), len) {
        Ok(()) => {
            set_errno(saved);
            0
        }
        Err(e) => {
            info!("fd {fd}: ring request refused with errno {}", e.0);
            set_errno(e);
            -1
        }
    }
}

pub unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: *mut c_uint) -> c_int {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::getsockopt(fd, level, name, value, len) };
    };
    // SAFETY: as above.
    let result = unsafe { next::getsockopt(fd, level, name, value, len) };
    if result == 0
        && local.endpoint.rx().is_some()
        && let Some(control) = local.endpoint.control()
    {
        // SAFETY: the kernel has just written the length, and as many bytes.
        let written = unsafe { len.read_unaligned() };
        if let Some(word) = ours(control, level, name)
            && written >= 4
        {
            // SAFETY: at least four bytes are writable there.
            unsafe {
                let to = value.cast::<i32>();
                if name == SO_ERROR {
                    // A socket has one error: what the kernel holds and what we hold are told and cleared together.
                    match to.read_unaligned() {
                        0 => {}
                        error => local.endpoint.pass_on(control, Errno(error)),
                    }
                    to.write_unaligned(control.take_error());
                } else {
                    to.write_unaligned(word);
                }
            }
        }
    }
    local.leave();
    result
}

/// The client's view of an option that we use ourselves.
fn ours(control: &Control, level: c_int, name: c_int) -> Option<i32> {
    match (level, name) {
        (SOL_SOCKET, SO_ERROR) => Some(0),
        (SOL_SOCKET, SO_PASSCRED) => Some(i32::from(control.has(flag::PASSCRED))),
        (SOL_NETLINK, NETLINK_PKTINFO) => Some(i32::from(control.has(flag::PKTINFO))),
        _ => None,
    }
}
