//! `bind`, `connect`, `getsockname`, `getpeername`, `ioctl`: addresses, and what sockets answer for their interfaces.

use super::chain::beyond;
use super::table::Dev;
use super::{device_or_next, request};
use crate::next;
use crate::symbols::Ptr;
use core::ffi::{c_int, c_uint, c_ulong};
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

pub unsafe fn bind(fd: c_int, name: Ptr, len: c_uint) -> c_int {
    device_or_next!(
        fd,
        |_: &Dev| request::with(fd, abi::BIND, &mut netlink_address(name, len)?),
        // SAFETY: handed on as it came.
        unsafe { beyond::bind(fd, name, len) }
    )
}

pub unsafe fn connect(fd: c_int, name: Ptr, len: c_uint) -> c_int {
    device_or_next!(
        fd,
        |_: &Dev| {
            if len < 2 {
                return Err(Errno::INVAL);
            }
            let mut to = match address(name, len)? {
                nothing if nothing.family == AF_UNSPEC => SockaddrNl::default(),
                _ => netlink_address(name, len)?,
            };
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
