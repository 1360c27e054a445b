//! `libnlmmap`: the C library beside `include/nlmmap.h`. [`ring`] is for new programs. Here, for those who write the ring
//! protocol themselves: from a path to mapped rings in four calls, the same on either node.
//!
//! Each function is a few ioctls; what is kept between them is in the kernel and the daemon, so they are free of locks and
//! may be called from any thread. Failures are -1 with `errno`.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod ring;

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

/// `struct nl_mmap_req` of `linux/netlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Block size, blocks, frame size, frames.
    pub words: [u32; 4],
}

/// `struct nlmmap_map`: where the rings are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// The receive ring, or null.
    pub rx: *mut c_void,
    /// The transmit ring, or null.
    pub tx: *mut c_void,
    /// Bytes of the receive ring.
    pub rx_len: usize,
    /// Bytes of the transmit ring.
    pub tx_len: usize,
}

const READ: u32 = 2;
const WRITE: u32 = 1;
const ABI: u32 = 1;
const MAP_MEMORY: u32 = 2;

const fn number(direction: u32, nr: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | 0xDA << 8 | nr
}

const VERSION: u32 = number(READ, 0x00, 16);
const SOCKET: u32 = number(WRITE, 0x01, 8);
const BIND: u32 = number(WRITE, 0x02, 12);
const RX_RING: u32 = number(WRITE, 0x09, 16);
const TX_RING: u32 = number(WRITE, 0x0a, 16);
const MAP_INFO: u32 = number(READ, 0x0b, 24);
const MEMORY: u32 = number(WRITE, 0x0c, 4);

/// The ioctl, with an argument of as many bytes as its number says.
fn ioctl<T>(fd: c_int, number: u32, argument: &mut T) -> c_int {
    debug_assert_eq!(number >> 16 & 0x3fff, size_of::<T>() as u32);
    // SAFETY: the number says how many bytes the kernel reads and writes there: those of the argument.
    unsafe { libc::ioctl(fd, number.into(), std::ptr::from_mut(argument)) }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Closes on the way out and keeps the error of what failed before.
fn close_and_fail(fd: c_int) -> c_int {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: the caller's own descriptor.
    unsafe { libc::close(fd) };
    fail(errno)
}

/// Opens a node (`/dev/nlmmap` when `path` is null), close-on-exec. `ENOTTY` when it is something else, `EPROTO` when the
/// daemon speaks another version.
///
/// # Safety
/// `path` is null or a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_open(path: *const c_char) -> c_int {
    let path = if path.is_null() { c"/dev/nlmmap".as_ptr() } else { path };
    // SAFETY: the caller's duty.
    let fd = unsafe { libc::open(path, libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return -1;
    }
    let mut version = [0u32; 4];
    if ioctl(fd, VERSION, &mut version) < 0 {
        return close_and_fail(fd);
    }
    if version[0] != ABI {
        fail(libc::EPROTO);
        return close_and_fail(fd);
    }
    fd
}

/// Makes the netlink socket behind the node and binds it to a port id of the kernel's choice and to `groups`.
#[unsafe(no_mangle)]
pub extern "C" fn nlmmap_socket(fd: c_int, kind: c_int, protocol: c_int, groups: u32) -> c_int {
    if ioctl(fd, SOCKET, &mut [kind.cast_unsigned(), protocol.cast_unsigned()]) < 0 {
        return -1;
    }
    // struct sockaddr_nl: the family in the first half of the first word.
    let family = u32::from_ne_bytes({
        let [a, b] = (libc::AF_NETLINK as u16).to_ne_bytes();
        [a, b, 0, 0]
    });
    ioctl(fd, BIND, &mut [family, 0, groups])
}

/// Sets the rings; a null pointer leaves that ring away.
///
/// # Safety
/// Each pointer is null or leads to a request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_rings(fd: c_int, rx: *const Request, tx: *const Request) -> c_int {
    for (number, request) in [(RX_RING, rx), (TX_RING, tx)] {
        // SAFETY: the caller's duty.
        if let Some(request) = unsafe { request.as_ref() }
            && ioctl(fd, number, &mut request.words.clone()) < 0
        {
            return -1;
        }
    }
    0
}

/// Maps the rings: the node itself where that can be, else memory that is handed to the daemon. Unmap by `munmap` of
/// `rx_len + tx_len` bytes from the first ring on.
///
/// # Safety
/// `map` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nlmmap_map(fd: c_int, map: *mut Map) -> c_int {
    // struct nlmmap_map_info: how and padding in the first word, then two lengths.
    let mut info = [0u64; 3];
    if ioctl(fd, MAP_INFO, &mut info) < 0 {
        return -1;
    }
    let [a, b, c, d, ..] = info[0].to_ne_bytes();
    let how = u32::from_ne_bytes([a, b, c, d]);
    let (Ok(rx_len), Ok(tx_len)) = (usize::try_from(info[1]), usize::try_from(info[2])) else {
        return fail(libc::ENOMEM);
    };
    let len = rx_len + tx_len;
    let memory = if how == MAP_MEMORY { memory(len) } else { fd };
    if memory < 0 {
        return -1;
    }
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, memory, 0) };
    let handed = base != libc::MAP_FAILED && (memory == fd || ioctl(fd, MEMORY, &mut { memory }) == 0);
    if memory != fd {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        // SAFETY: ours, and mapped by now.
        unsafe { libc::close(memory) };
        fail(errno);
    }
    if !handed {
        if base != libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            // SAFETY: mapped above and given to nobody.
            unsafe { libc::munmap(base, len) };
            fail(errno);
        }
        return -1;
    }
    let at = |offset: usize, len: usize| if len == 0 { null_mut() } else { base.wrapping_byte_add(offset) };
    // SAFETY: the caller's duty.
    unsafe { map.write(Map { rx: at(0, rx_len), tx: at(rx_len, tx_len), rx_len, tx_len }) };
    0
}

/// A memfd that keeps its size, or -1.
fn memory(len: usize) -> c_int {
    // SAFETY: a terminated name.
    let fd = unsafe { libc::memfd_create(c"nlmmap-rings".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return -1;
    }
    let Ok(size) = libc::off_t::try_from(len) else {
        fail(libc::ENOMEM);
        return close_and_fail(fd);
    };
    // SAFETY: numbers only.
    let sized = unsafe { libc::ftruncate(fd, size) } == 0;
    // SAFETY: numbers only.
    if !sized || unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) } < 0 {
        return close_and_fail(fd);
    }
    fd
}
