//! `close`, `dup` and the like: the table follows, the descriptor is the kernel's own.

use super::chain::beyond;
use super::table;
use core::ffi::{c_int, c_uint, c_ulong};

const F_DUPFD: c_int = 0;
const F_DUPFD_CLOEXEC: c_int = 1030;
const CLOSE_RANGE_UNSHARE: c_int = 2;

pub unsafe fn close(fd: c_int) -> c_int {
    table::closing(fd);
    // SAFETY: handed on as it came.
    unsafe { beyond::close(fd) }
}

pub unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // Nothing is closed with CLOSE_RANGE_CLOEXEC, nor when the kernel refuses the request.
    if first <= last && flags & !CLOSE_RANGE_UNSHARE == 0 {
        table::closing_range(first, last);
    }
    // SAFETY: as above.
    unsafe { beyond::close_range(first, last, flags) }
}

pub unsafe fn closefrom(first: c_int) {
    table::closing_range(first.max(0) as c_uint, c_uint::MAX);
    // SAFETY: as above.
    unsafe { beyond::closefrom(first) };
}

/// A duplicate has been made, if it has.
fn follow(fd: c_int, new: c_int) -> c_int {
    if new >= 0 && new != fd {
        table::follow(fd, new);
    }
    new
}

pub unsafe fn dup(fd: c_int) -> c_int {
    // SAFETY: as above.
    follow(fd, unsafe { beyond::dup(fd) })
}

pub unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    if fd != to {
        table::closing(to);
    }
    // SAFETY: as above.
    follow(fd, unsafe { beyond::dup2(fd, to) })
}

pub unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if fd != to {
        table::closing(to);
    }
    // SAFETY: as above.
    follow(fd, unsafe { beyond::dup3(fd, to, flags) })
}

pub unsafe fn fcntl(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int {
    // SAFETY: as above.
    let result = unsafe { beyond::fcntl(fd, cmd, arg) };
    if matches!(cmd, F_DUPFD | F_DUPFD_CLOEXEC) { follow(fd, result) } else { result }
}

pub unsafe fn fcntl64(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int {
    // SAFETY: the same function on a 64-bit machine.
    unsafe { fcntl(fd, cmd, arg) }
}
