//! `bind`, `connect`, `getsockname`, `getpeername`, `ioctl`: addresses, and what sockets answer for their interfaces.

use super::chain::beyond;
use super::table::Dev;
use super::{device_or_next, request};
use crate::next;
use crate::symbols::Ptr;
use core::ffi::{c_int, c_uint, c_ulong};
use core::sync::atomic::Ordering;
use nlmmap_ring::device_abi as abi;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, SockaddrNl};
use syscalls::Sysno;

/// The longest address of any family (`struct sockaddr_storage`).
const LONGEST: c_uint = 128;
const AF_UNSPEC: u16 = 0;

/// An address of the client's, and the most of it that netlink looks at.
fn address(name: Ptr, len: c_uint) -> Result<SockaddrNl> {
    if len > LONGEST {
        return Err(Errno::INVAL);
    }
    let mut bytes = [0u8; size_of::<SockaddrNl>()];
    let len = (len as usize).min(bytes.len());
    request::copy_in(name.cast(), bytes.get_mut(..len).unwrap_or(&mut []))?;
    Ok(abi::read(&bytes).unwrap_or_default())
}

/// An address that must be a whole one of netlink's.
pub(super) fn netlink_address(name: Ptr, len: c_uint) -> Result<SockaddrNl> {
    let address = address(name, len)?;
    if (len as usize) < size_of::<SockaddrNl>() || address.family != sys::AF_NETLINK {
        return Err(Errno::INVAL);
    }
    Ok(address)
}

/// As `bind`. Where the client leaves the port id to the kernel, that would take the process id if it is free
/// (`netlink_autobind`), and clients know that. In the daemon it would take another process's.
fn bind_to(fd: c_int, dev: &Dev, name: SockaddrNl) -> Result<usize> {
    const ADDRINUSE: Errno = Errno(98);
    let mut own = SockaddrNl { portid: sys::getpid(), ..name };
    let done = if name.portid != 0 || dev.bound.load(Ordering::Relaxed) {
        request::with(fd, abi::BIND, &mut { name })
    } else {
        match request::with(fd, abi::BIND, &mut own) {
            // Taken, or bound already, to another one.
            Err(ADDRINUSE | Errno::INVAL) => request::with(fd, abi::BIND, &mut { name }),
            done => done,
        }
    };
    if done.is_ok() {
        dev.bound.store(true, Ordering::Relaxed);
    }
    done
}

/// Before the first send of a client that has not bound: the kernel would do it now.
pub(super) fn bind_for_send(fd: c_int, dev: &Dev) -> Result<()> {
    if dev.bound.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut known = SockaddrNl::default();
    request::with(fd, abi::GETSOCKNAME, &mut known)?;
    if known.portid == 0 {
        bind_to(fd, dev, SockaddrNl { family: sys::AF_NETLINK, groups: known.groups, ..known })?;
    }
    dev.bound.store(true, Ordering::Relaxed);
    Ok(())
}

pub unsafe fn bind(fd: c_int, name: Ptr, len: c_uint) -> c_int {
    device_or_next!(
        fd,
        |dev: &Dev| bind_to(fd, dev, netlink_address(name, len)?),
        // SAFETY: handed on as it came.
        unsafe { beyond::bind(fd, name, len) }
    )
}

pub unsafe fn connect(fd: c_int, name: Ptr, len: c_uint) -> c_int {
    device_or_next!(
        fd,
        |dev: &Dev| {
            if len < 2 {
                return Err(Errno::INVAL);
            }
            let mut to = match address(name, len)? {
                nothing if nothing.family == AF_UNSPEC => SockaddrNl::default(),
                _ => netlink_address(name, len)?,
            };
            if to.family != AF_UNSPEC {
                bind_for_send(fd, dev)?;
            }
            request::with(fd, abi::CONNECT, &mut to)
        },
        // SAFETY: handed on as it came.
        unsafe { beyond::connect(fd, name, len) }
    )
}

/// An address that an ioctl tells, to the client.
unsafe fn name_to(fd: c_int, number: u32, name: Ptr, len: *mut c_uint) -> Result<usize> {
    let mut answer = SockaddrNl::default();
    request::with(fd, number, &mut answer)?;
    let mut room = [0u8; 4];
    request::copy_in(len.cast(), &mut room)?;
    let room = i32::from_ne_bytes(room);
    if room < 0 {
        return Err(Errno::INVAL);
    }
    let bytes = abi::bytes(&answer);
    // SAFETY: the client's duty for its buffers.
    unsafe {
        sys::copy_out(bytes.get(..(room as usize).min(bytes.len())).unwrap_or(&[]), name.cast())?;
        len.write_unaligned(bytes.len() as c_uint);
    }
    Ok(0)
}

pub unsafe fn getsockname(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { name_to(fd, abi::GETSOCKNAME, name, len) },
        // SAFETY: handed on as it came.
        unsafe { beyond::getsockname(fd, name, len) }
    )
}

pub unsafe fn getpeername(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int {
    device_or_next!(
        fd,
        // SAFETY: the caller's duty.
        |_: &Dev| unsafe { name_to(fd, abi::GETPEERNAME, name, len) },
        // SAFETY: handed on as it came.
        unsafe { beyond::getpeername(fd, name, len) }
    )
}

/// `ENOTTY`
const NOTTY: Errno = Errno(25);

/// What a netlink socket answers to requests that a file answers otherwise.
unsafe fn socket_ioctl(number: c_ulong, argument: c_ulong) -> Option<Result<usize>> {
    const FIONREAD: c_ulong = 0x541B;
    const TIOCOUTQ: c_ulong = 0x5411;
    match number & 0xffff_ffff {
        FIONREAD | TIOCOUTQ => Some(Err(NOTTY)),
        // Interfaces (SIOCGIFINDEX and its like): any socket may be asked, of this process's network namespace.
        0x8900..=0x89ff => {
            // SAFETY: numbers only. AF_INET, SOCK_DGRAM | SOCK_CLOEXEC.
            let socket = unsafe { sys::call(Sysno::socket, [2, 0o2_000_002, 0, 0, 0, 0]) };
            Some(socket.and_then(|socket| {
                // SAFETY: the client's duty for its argument.
                let answer = unsafe { sys::call(Sysno::ioctl, [socket, number as usize, argument as usize, 0, 0, 0]) };
                sys::close(socket as i32);
                answer
            }))
        }
        _ => None,
    }
}

pub unsafe fn ioctl(fd: c_int, number: c_ulong, argument: c_ulong) -> c_int {
    if super::table::find(fd).is_some()
        // SAFETY: the caller's duty.
        && let Some(answer) = unsafe { socket_ioctl(number, argument) }
    {
        return match answer {
            Ok(n) => n as c_int,
            Err(e) => {
                next::set_errno(e);
                -1
            }
        };
    }
    // SAFETY: handed on as it came.
    unsafe { beyond::ioctl(fd, number, argument) }
}

/// To `fstat` an endpoint is the socket behind it: programs look for its number in `/proc/net/netlink`.
unsafe fn as_socket(fd: c_int, status: Ptr, result: c_int) -> c_int {
    const SOCKET: u32 = 0o140_000;
    let mut state = abi::State::default();
    if result == 0 && super::table::find(fd).is_some() && request::with(fd, abi::STATE, &mut state).is_ok() {
        let status = status.cast::<linux_raw_sys::general::stat>();
        // SAFETY: the C library has just filled this structure, which is the kernel's on this machine.
        unsafe {
            (*status).st_mode = SOCKET | 0o777;
            if state.inode != 0 {
                (*status).st_ino = state.inode;
            }
            (*status).st_size = 0;
        }
    }
    result
}

pub unsafe fn fstat(fd: c_int, status: Ptr) -> c_int {
    // SAFETY: handed on as it came.
    unsafe { as_socket(fd, status, beyond::fstat(fd, status)) }
}

pub unsafe fn fstat64(fd: c_int, status: Ptr) -> c_int {
    // SAFETY: as above.
    unsafe { as_socket(fd, status, beyond::fstat64(fd, status)) }
}

pub unsafe fn __fxstat(version: c_int, fd: c_int, status: Ptr) -> c_int {
    // SAFETY: as above.
    unsafe { as_socket(fd, status, beyond::__fxstat(version, fd, status)) }
}

pub unsafe fn __fxstat64(version: c_int, fd: c_int, status: Ptr) -> c_int {
    // SAFETY: as above.
    unsafe { as_socket(fd, status, beyond::__fxstat64(version, fd, status)) }
}
