//! Descriptors: `close`, `dup` and the like. The table follows; the real descriptor is always the kernel's own.

use crate::fdtable;
use crate::local::Local;
use crate::next::{self, errno};
use crate::process;
use crate::{guard, watch};
use core::ffi::{c_int, c_uint, c_ulong};
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::sys;
use syscalls::Sysno;

const F_DUPFD: c_int = 0;
const F_DUPFD_CLOEXEC: c_int = 1030;
const CLOSE_RANGE_UNSHARE: c_int = 2;

/// Takes `fd` out of the table before it is closed, so that another thread may get the number at once. The socket of
/// rings that stay mapped, or of a receive that sleeps, is kept by a duplicate of our own.
fn part(fd: c_int) -> Option<&'static Local> {
    if !fdtable::is_adopted(fd) || process::is_vfork_child() {
        return None;
    }
    let local = fdtable::enter(fd)?;
    if local.fds.load(Relaxed) == 1 {
        local.summary(fd, "closed");
        // A receive that sleeps in another thread keeps the socket, as the kernel's own does.
        if (local.is_mapped() || local.duty.inside.load(Relaxed) > 0) && local.orphan.load(Relaxed) < 0 {
            // SAFETY: numbers only.
            if let Ok(copy) = unsafe { sys::call(Sysno::fcntl, [fd as usize, F_DUPFD_CLOEXEC as usize, 3, 0, 0, 0]) } {
                local.orphan.store(fdtable::adopt_duplicate(copy as i32), Relaxed);
            }
        }
    }
    super::epoll::closing(local, fd);
    fdtable::remove(fd);
    watch::closing(local, fd);
    watch::quiesce(local, fd);
    Some(local)
}

pub unsafe fn close(fd: c_int) -> c_int {
    if fdtable::live() == 0 {
        // SAFETY: handed on as it came.
        return unsafe { next::close(fd) };
    }
    if fdtable::is_private(fd) && !process::is_vfork_child() {
        // The client never opened it: to the client this number is not open.
        next::set_errno(Errno::BADF);
        return -1;
    }
    super::epoll::closing_instance(fd);
    let parted = part(fd);
    // SAFETY: handed on as it came.
    let result = unsafe { next::close(fd) };
    if let Some(local) = parted {
        if result != 0 && errno() == Errno::BADF {
            fdtable::insert(fd, local);
        }
        local.leave();
    }
    result
}

/// Closes `first..=last` but for our own descriptors, which the client cannot know of.
pub unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // Nothing is closed with CLOSE_RANGE_CLOEXEC, nor when the kernel refuses the request.
    let closes = first <= last && flags & !CLOSE_RANGE_UNSHARE == 0;
    if fdtable::live() == 0 || !closes || process::is_vfork_child() {
        // SAFETY: handed on as it came.
        return unsafe { next::close_range(first, last, flags) };
    }
    let (mut from, mut at) = (first, first);
    while let Some(fd) = fdtable::next_used(at, last) {
        if fdtable::is_private(fd as c_int) {
            if fd > from {
                // SAFETY: numbers only.
                let result = unsafe { next::close_range(from, fd - 1, flags) };
                if result != 0 {
                    return result;
                }
            }
            from = fd + 1;
        } else if let Some(local) = part(fd as c_int) {
            local.leave();
        }
        at = fd + 1;
        if at > last || at == 0 {
            break;
        }
    }
    if from > last {
        return 0;
    }
    // SAFETY: as above.
    unsafe { next::close_range(from, last, flags) }
}

pub unsafe fn closefrom(first: c_int) {
    if fdtable::live() == 0 || process::is_vfork_child() {
        // SAFETY: handed on as it came.
        return unsafe { next::closefrom(first) };
    }
    let saved = errno();
    // SAFETY: the same by number.
    if unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) } != 0 {
        each_open(|fd| {
            if fd >= first && !fdtable::is_private(fd) {
                // SAFETY: what closefrom is for.
                unsafe { close(fd) };
            }
        });
    }
    next::set_errno(saved);
}

/// `new` is a duplicate of `old`.
fn follow(old: c_int, new: c_int) {
    if let Some(local) = fdtable::enter(old) {
        fdtable::insert(new, local);
        local.leave();
    }
}

pub unsafe fn dup(fd: c_int) -> c_int {
    // SAFETY: handed on as it came.
    let new = unsafe { next::dup(fd) };
    if new >= 0 && fdtable::is_adopted(fd) && !process::is_vfork_child() {
        follow(fd, new);
    }
    new
}

/// What `dup2` and `dup3` do to the number they replace.
fn replace(fd: c_int, to: c_int, call: impl FnOnce() -> c_int) -> c_int {
    if fd == to || fdtable::live() == 0 || process::is_vfork_child() {
        return call();
    }
    if fdtable::is_private(to) {
        // The client wants a number that we sit on: make way.
        guard::move_away(to);
    }
    let parted = part(to);
    super::epoll::closing_instance(to);
    let new = call();
    if let Some(local) = parted {
        if new < 0 {
            fdtable::insert(to, local);
        }
        local.leave();
    }
    if new >= 0 && fdtable::is_adopted(fd) {
        follow(fd, new);
    }
    new
}

pub unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    // SAFETY: handed on as it came.
    replace(fd, to, || unsafe { next::dup2(fd, to) })
}

pub unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    // SAFETY: handed on as it came.
    replace(fd, to, || unsafe { next::dup3(fd, to, flags) })
}

pub unsafe fn fcntl(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int {
    // SAFETY: handed on as it came.
    let result = unsafe { next::fcntl(fd, cmd, arg) };
    if result >= 0 && matches!(cmd, F_DUPFD | F_DUPFD_CLOEXEC) && fdtable::is_adopted(fd) && !process::is_vfork_child()
    {
        follow(fd, result);
    }
    result
}

pub unsafe fn fcntl64(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int {
    // SAFETY: the same function on a 64-bit machine.
    unsafe { fcntl(fd, cmd, arg) }
}

/// Calls `f` for each descriptor of this process, as far as `/proc` tells.
pub(super) fn each_open(mut f: impl FnMut(c_int)) {
    let path = c"/proc/self/fd";
    // SAFETY: a C string; O_RDONLY | O_DIRECTORY | O_CLOEXEC, relative to AT_FDCWD.
    let dir = unsafe { sys::call(Sysno::openat, [-100_isize as usize, path.as_ptr() as usize, 0o2_200_000, 0, 0, 0]) };
    let Ok(dir) = dir else { return };
    let mut buf = [0u8; 2048];
    loop {
        // SAFETY: a buffer of the stated length.
        let n = unsafe { sys::call(Sysno::getdents64, [dir, buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0]) };
        let Ok(n @ 1..) = n else { break };
        let mut at = 0;
        // struct linux_dirent64: length at 16 (2 bytes), name from 19 on.
        while let Some(&[lo, hi]) = buf.get(at + 16..at + 18).and_then(|b| b.first_chunk::<2>()) {
            if at >= n {
                break;
            }
            let len = u16::from_ne_bytes([lo, hi]) as usize;
            let name = buf.get(at + 19..(at + len).min(n)).unwrap_or(&[]);
            if let Some(fd) = number(name)
                && fd != dir as c_int
            {
                f(fd);
            }
            at += len.max(19);
        }
    }
    sys::close(dir as i32);
}

/// The decimal number that a NUL-terminated name is.
fn number(name: &[u8]) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut digits = 0;
    for b in name.iter().take_while(|b| **b != 0) {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        value = value.checked_mul(10)?.checked_add(c_int::from(digit))?;
        digits += 1;
    }
    (digits > 0).then_some(value)
}
