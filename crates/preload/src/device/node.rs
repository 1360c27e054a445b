//! The node: opening it for `socket`, and knowing its files again.

use super::chain::beyond;
use super::request;
use super::table::{self, Dev};
use super::{chain, device_or_next};
use crate::found;
use crate::log::{info, warning};
use crate::{next, process};
use core::ffi::c_int;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use linux_raw_sys::general as g;
use nlmmap_ring::device_abi as abi;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, AF_NETLINK};
use syscalls::Sysno;

const SOCK_TYPE_MASK: c_int = 0xf;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const SOCK_NONBLOCK: c_int = 0o4000;
const O_RDWR: c_int = 2;
/// `EAFNOSUPPORT`: what `socket` answers where there is no netlink.
const NO_NETLINK: Errno = Errno(97);
const NOTCONN: Errno = Errno(107);
const NXIO: Errno = Errno(6);
const NOTDIR: Errno = Errno(20);

/// The node's path with its end, copied: a program may write over its environment.
static PATH: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
/// Device of the node's files and, of a character device, its number; 0 while unknown.
static PLACE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Notes the path, at the start of the program.
pub fn configure(path: &[u8]) {
    if path.is_empty() {
        return;
    }
    if path.len() >= PATH.len() {
        warning!("NLMMAP_DEVICE: a path of {} bytes is too long, {} at most; not used", path.len(), PATH.len() - 1);
        return;
    }
    for (to, from) in PATH.iter().zip(path) {
        to.store(*from, Ordering::Relaxed);
    }
    // Fork and vfork are told apart from here on.
    if let Err(e) = process::prepare() {
        warning!("NLMMAP_DEVICE is not used: no page that tells a fork, errno {} (Linux 4.14 has it)", e.0);
        return;
    }
    chain::join();
}

fn path() -> [u8; 1024] {
    let mut copy = [0; 1024];
    for (to, from) in copy.iter_mut().zip(&PATH) {
        *to = from.load(Ordering::Relaxed);
    }
    copy
}

/// The path for a line of the log.
fn shown(path: &[u8; 1024]) -> &str {
    let len = path.iter().position(|b| *b == 0).unwrap_or(0);
    core::str::from_utf8(path.get(..len).unwrap_or(&[])).unwrap_or("(a path that is not text)")
}

fn stat(at: &[usize; 4]) -> Result<g::stat> {
    let mut status: core::mem::MaybeUninit<g::stat> = core::mem::MaybeUninit::zeroed();
    let [dir, path, flags, _] = *at;
    // SAFETY: a C string and room for one stat.
    unsafe { sys::call(Sysno::newfstatat, [dir, path, status.as_mut_ptr() as usize, flags, 0, 0]) }?;
    // SAFETY: plain integers, zeroed before the call.
    Ok(unsafe { status.assume_init() })
}

/// Where an open file is: device it lies on, and its own number if it is one.
fn place(fd: c_int) -> Result<[u64; 2]> {
    const AT_EMPTY_PATH: usize = 0x1000;
    let status = stat(&[fd as usize, c"".as_ptr() as usize, AT_EMPTY_PATH, 0])?;
    Ok([status.st_dev, status.st_rdev])
}

/// `socket(AF_NETLINK, ...)` on the device: opens the node, and makes the netlink socket behind it.
fn open(kind: c_int, protocol: c_int) -> Result<c_int> {
    const FLAGS: c_int = SOCK_CLOEXEC | SOCK_NONBLOCK;
    if kind & !(FLAGS | SOCK_TYPE_MASK) != 0 {
        return Err(Errno::INVAL);
    }
    let path = path();
    // The flags have the same numbers. AT_FDCWD is -100.
    let flags = (O_RDWR | kind & FLAGS) as usize;
    // SAFETY: a C string.
    let opened = unsafe { sys::call(Sysno::openat, [-100_isize as usize, path.as_ptr() as usize, flags, 0, 0, 0]) };
    let fd = opened.map_err(|e| refused(e, shown(&path)))? as c_int;
    let made = equip(fd, kind & SOCK_TYPE_MASK, protocol, &path);
    if made.is_err() {
        sys::close(fd);
    }
    made.map(|()| fd)
}

fn equip(fd: c_int, kind: c_int, protocol: c_int, path: &[u8; 1024]) -> Result<()> {
    let mut version = abi::Version::default();
    let asked = request::with(fd, abi::VERSION, &mut version);
    if asked.is_err() || version.abi != abi::ABI || version.features & abi::F_SOCKET_CALLS == 0 {
        warning!(
            "{}: no node of nlmmap, or of another version: give the path of a node that nlmmap serve made",
            shown(path)
        );
        return Err(NO_NETLINK);
    }
    let strict = if found::STRICT.load(Ordering::Relaxed) { abi::SOCKET_STRICT } else { 0 };
    let mut socket = abi::Socket { kind: kind as u32 | strict, protocol: protocol as u32 };
    request::with(fd, abi::SOCKET, &mut socket).inspect_err(|e| {
        info!("{}: a socket of netlink family {protocol} refused with errno {}", shown(path), e.0);
    })?;
    if let Ok(place) = place(fd) {
        for (to, from) in PLACE.iter().zip(place) {
            to.store(from, Ordering::Relaxed);
        }
    }
    let dev = table::allocate()?;
    if !table::insert(fd, dev) {
        table::give_back(dev);
        return Err(Errno::MFILE);
    }
    Ok(())
}

/// Why the node cannot be opened, in words and as an error that `socket` has.
#[cold]
fn refused(error: Errno, path: &str) -> Errno {
    match error {
        Errno::NOENT | Errno::NODEV | NXIO | NOTDIR => {
            warning!("{path}: no such node: start the daemon (nlmmap serve), or correct the path");
            NO_NETLINK
        }
        NOTCONN => {
            warning!("{path}: the daemon behind this node is gone: start it again (nlmmap serve)");
            NO_NETLINK
        }
        Errno::ACCES | Errno::PERM => {
            warning!(
                "{path}: opening it is refused: ask for its group (nlmmap serve --group, --mode); the daemon's log says more"
            );
            Errno::ACCES
        }
        Errno::MFILE | Errno::NFILE => {
            warning!(
                "{path}: too many open files, of this process (ulimit -n) or of the daemon's limits (nlmmap serve --help)"
            );
            error
        }
        other => {
            warning!("{path}: cannot be opened: errno {}", other.0);
            other
        }
    }
}

pub unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if domain != c_int::from(AF_NETLINK) || process::is_vfork_child() {
        // SAFETY: handed on as it came.
        return unsafe { beyond::socket(domain, kind, protocol) };
    }
    let saved = next::errno();
    match open(kind, protocol) {
        Ok(fd) => {
            next::set_errno(saved);
            fd
        }
        Err(e) => {
            next::set_errno(e);
            -1
        }
    }
}

/// A descriptor that a socket call has failed on: if it is an open file of the node, it is followed from now on.
pub fn recognize(fd: c_int) -> Option<&'static Dev> {
    if process::is_vfork_child() {
        return None;
    }
    let [mut device, mut number] = [0, 1].map(|i| PLACE.get(i).map_or(0, |word| word.load(Ordering::Relaxed)));
    if device == 0 {
        // AT_FDCWD
        let status = stat(&[-100_isize as usize, path().as_ptr() as usize, 0, 0]).ok()?;
        (device, number) = (status.st_dev, status.st_rdev);
    }
    // The files of a ring file's mount are its own; a character device is told by its number.
    let same = match place(fd).ok()? {
        [_, its] if number != 0 => its == number,
        [its, _] => its == device,
    };
    let mut state = abi::State::default();
    if !same || request::with(fd, abi::STATE, &mut state).is_err() {
        return None;
    }
    let dev = table::allocate().ok()?;
    dev.tx.store(state.rings & abi::STATE_TX != 0, Ordering::Relaxed);
    if !table::insert(fd, dev) {
        table::give_back(dev);
        return None;
    }
    // This program has no mapping yet, whatever the one before it in this process had.
    let _ = request::mapped(fd, false);
    Some(dev)
}

/// `shutdown`: netlink has none.
pub unsafe fn shutdown(fd: c_int, how: c_int) -> c_int {
    device_or_next!(
        fd,
        |_: &Dev| Err::<usize, _>(Errno::OPNOTSUPP),
        // SAFETY: handed on as it came.
        unsafe { beyond::shutdown(fd, how) }
    )
}
