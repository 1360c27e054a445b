//! Each shape, called as before the chain is known.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::{Shape, call, shape, signals::Action};
use nlmmap_ring::errno::Errno;
use nlmmap_ring::sys;
use std::sync::atomic::{AtomicU32, Ordering};
use syscalls::Sysno;

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn caught(number: i32) {
    CAUGHT.fetch_add(number as u32, Ordering::Relaxed);
}

const USR1: usize = 10;
const RT: usize = 40;

fn raise(number: usize) {
    // SAFETY: numbers only; the signal is caught.
    unsafe { sys::call(Sysno::tgkill, [sys::getpid() as usize, sys::gettid() as usize, number, 0, 0, 0]) }.unwrap();
}

fn sigaction(number: usize, new: Option<&Action>, old: Option<&mut Action>) -> Result<usize, Errno> {
    let new = new.map_or(0, |a| &raw const *a as usize);
    let old = old.map_or(0, |a| &raw mut *a as usize);
    // SAFETY: locals of the callers.
    unsafe { call(shape("sigaction"), Sysno::rt_sigaction, [number, new, old]) }
}

#[test]
fn every_row_has_its_shape() {
    for (name, want) in
        [("read", Shape::Same), ("send", Shape::Four), ("fcntl64", Shape::Fcntl), ("signal", Shape::Signal)]
    {
        assert_eq!(shape(name), want);
    }
    // The names that the C library gives other arguments than the kernel takes are all known to `shape`.
    let special = crate::symbols::NAMES.iter().filter(|n| shape(n) != Shape::Same).count();
    assert_eq!(special, 18);
}

#[test]
fn handlers_run_and_return() {
    let mask = {
        let mut mask = [0u64; 16];
        mask[0] = 1 << 11;
        mask
    };
    // SA_SIGINFO | SA_NODEFER
    let new = Action { handler: caught as *const () as usize, mask, flags: 0x4000_0004, restorer: 0 };
    let mut old = Action { handler: 77, mask: [u64::MAX; 16], flags: -1, restorer: 77 };
    assert_eq!(sigaction(RT, Some(&new), Some(&mut old)), Ok(0));
    assert_eq!((old.handler, old.flags, old.mask), (0, 0, [0; 16]), "what there was before");
    raise(RT);
    assert_eq!(CAUGHT.swap(0, Ordering::Relaxed), RT as u32);
    assert_eq!(sigaction(RT, None, Some(&mut old)), Ok(0));
    assert_eq!((old.handler, old.flags, old.mask), (new.handler, new.flags, mask), "what was set");
    let default = Action { handler: 0, ..new };
    assert_eq!(sigaction(RT, Some(&default), None), Ok(0));
    for number in [0, 9, 19, 32, 33, 65, usize::MAX] {
        assert_eq!(sigaction(number, Some(&default), None), Err(Errno::INVAL), "signal {number}");
    }

    let signal = |handler: usize| {
        // SAFETY: numbers, and a function that may be called at any time.
        unsafe { call(Shape::Signal, Sysno::rt_sigaction, [USR1, handler]) }
    };
    assert_eq!(signal(new.handler), Ok(0));
    raise(USR1);
    assert_eq!(CAUGHT.swap(0, Ordering::Relaxed), USR1 as u32);
    assert_eq!(sigaction(USR1, None, Some(&mut old)), Ok(0));
    assert_eq!((old.flags, old.mask[0]), (0x1000_0000, 1 << (USR1 - 1)), "restarted, and blocked in its handler");
    assert_eq!(signal(usize::MAX), Err(Errno::INVAL));
    assert_eq!(signal(0), Ok(new.handler));
}

#[test]
fn masks_and_times_reach_the_kernel() {
    // A blocked signal that waits, and a mask that lets it in: the wait ends by it.
    let new = Action { handler: caught as *const () as usize, mask: [0; 16], flags: 0, restorer: 0 };
    const OTHER: usize = 41;
    sigaction(OTHER, Some(&new), None).unwrap();
    let blocked = sys::block_signals();
    raise(OTHER);
    let open = !(1u64 << (OTHER - 1));
    let time = [5i64, 0];
    let (time, mask) = (&raw const time as usize, &raw const open as usize);
    // SAFETY: no descriptors; a time and a set of signals.
    assert_eq!(unsafe { call(Shape::Pselect, Sysno::pselect6, [0, 0, 0, 0, time, mask]) }, Err(Errno::INTR));
    raise(OTHER);
    // SAFETY: as above.
    assert_eq!(unsafe { call(Shape::Ppoll, Sysno::ppoll, [0, 0, time, mask]) }, Err(Errno::INTR));
    sys::restore_signals(blocked);
    assert_eq!(CAUGHT.swap(0, Ordering::Relaxed) % OTHER as u32, 0);
}

#[test]
fn the_owner_of_a_group_is_no_error() {
    // SAFETY: numbers only.
    let fd = unsafe { sys::call(Sysno::socket, [16, 3, 0, 0, 0, 0]) }.unwrap();
    // SAFETY: as above.
    let group = unsafe { sys::call(Sysno::getpgid, [0; 6]) }.unwrap() as isize;
    let fcntl = |cmd: usize, arg: isize| {
        // SAFETY: as above.
        unsafe { call(shape("fcntl"), Sysno::fcntl, [fd, cmd, arg as usize]) }
    };
    // SAFETY: as above.
    let pid = unsafe { sys::call(Sysno::getpid, [0; 6]) }.unwrap() as isize;
    assert_eq!(fcntl(8, -group), Ok(0));
    assert_eq!(fcntl(9, 0), Ok(-group as usize));
    // A process, and this one: the leader of its group may be gone.
    assert_eq!(fcntl(8, pid), Ok(0));
    assert_eq!(fcntl(9, 0), Ok(pid as usize));
    sys::close(fd as i32);
    assert_eq!(fcntl(9, 0), Err(Errno::BADF));
}
