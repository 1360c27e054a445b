//! The backing thread's epoll instance: which sockets it watches, and by which numbers.
//!
//! The instance has a number of the client's table, which may be closed where no hook sees it. A registration is made only after
//! a look whether the number is still ours (`table`, "own numbers"). A change of one is not preceded by that look: at an
//! instance of the client's it finds nothing to change, unless the client had registered the same socket there.

use crate::duty::{ARMED, OFF};
use crate::local::Local;
use crate::symbols::EpollEvent;
use crate::table;
use core::sync::atomic::{AtomicI32, Ordering};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use syscalls::Sysno;

const ADD: usize = 1;
const DEL: usize = 2;
const MOD: usize = 3;

static EPOLL: AtomicI32 = AtomicI32::new(-1);

/// The instance's number, -1 for none.
#[inline]
pub fn instance() -> i32 {
    EPOLL.load(Ordering::Acquire)
}

/// Whether there is an instance, and its number is still it.
pub fn is_there() -> bool {
    let ep = instance();
    ep >= 0 && table::is_noted(ep) && table::is_marked(ep)
}

/// Makes an instance in the place of `old`, unless somebody else has. A number that is not ours any more is forgotten.
pub fn make(old: i32) -> Result<()> {
    // SAFETY: numbers only. EPOLL_CLOEXEC.
    let made = unsafe { sys::call(Sysno::epoll_create1, [0x80000, 0, 0, 0, 0, 0]) }? as i32;
    // An endpoint whose number that was, closed unseen, ends when somebody looks for memory.
    let made = table::adopt_private(made, |_| {});
    if EPOLL.compare_exchange(old, made, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        table::close_private(made);
    } else if old >= 0 && old != made {
        // The number of one that was closed may be given to the new one.
        table::close_private(old);
    }
    Ok(())
}

/// The instance has moved from number `old` to `new`. `false`: it was not there.
pub fn moved(old: i32, new: i32) -> bool {
    EPOLL.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// In a fork child: the parent's instance is not ours to use.
pub fn after_fork() {
    let ep = EPOLL.swap(-1, Ordering::Relaxed);
    if ep >= 0 {
        table::close_private(ep);
    }
}

fn control(op: usize, fd: i32, events: u32, local: &Local) -> Result<()> {
    let ep = instance();
    if ep < 0 || op == ADD && !is_there() {
        return Err(Errno::BADF);
    }
    let event = EpollEvent { events, data: core::ptr::from_ref(local) as u64 };
    // SAFETY: the event is a local.
    unsafe { sys::call(Sysno::epoll_ctl, [ep as usize, op, fd as usize, &raw const event as usize, 0, 0]) }.map(|_| ())
}

/// Registers (or changes) what the thread is told about a socket, as its state asks for.
pub fn follow(local: &Local) -> bool {
    local.duty.follow(|events| register(local, events, |_| {}))
}

/// As [`follow`], by the thread itself, which says what number it works with ([`quiesce`]): a call that is under way holds the
/// socket, which must be gone when the client's close returns.
pub fn follow_by_thread(local: &Local) -> bool {
    local.duty.follow(|events| {
        let done = register(local, events, |fd| local.duty.using.begin(fd));
        local.duty.using.end();
        done
    })
}

fn register(local: &Local, events: u32, about_to_use: impl Fn(i32)) -> bool {
    let fd = local.duty.fd.load(Ordering::Acquire) - 1;
    if fd >= 0 {
        about_to_use(fd);
        if control(MOD, fd, events, local).is_ok() {
            return true;
        }
    }
    let fd = local.any_fd();
    if fd < 0 {
        return false;
    }
    about_to_use(fd);
    if !local.is_reached_by(fd) || !local.is_socket(fd) {
        return false;
    }
    let done = match control(ADD, fd, events, local) {
        Err(Errno::EXIST) => control(MOD, fd, events, local),
        other => other,
    };
    if done.is_ok() {
        local.duty.fd.store(fd + 1, Ordering::Release);
    }
    done.is_ok()
}

/// Has the thread woken by the next message.
pub fn arm(local: &Local) -> bool {
    arm_with(local, follow)
}

/// As [`arm`], by the thread itself.
pub fn arm_by_thread(local: &Local) -> bool {
    arm_with(local, follow_by_thread)
}

fn arm_with(local: &Local, follow: impl Fn(&Local) -> bool) -> bool {
    local.duty.state.store(ARMED, Ordering::SeqCst);
    let done = follow(local);
    if !done {
        local.duty.change(ARMED, OFF);
    }
    done
}

/// A descriptor is about to be closed: if the thread is registered by it, it goes on by another one.
pub fn closing(local: &Local, fd: i32) {
    let duty = &local.duty;
    if duty.fd.compare_exchange(fd + 1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        let _ = control(DEL, fd, 0, local);
        if local.fds.load(Ordering::Relaxed) > 0 || local.orphan.load(Ordering::Relaxed) >= 0 {
            arm(local);
        }
    }
}

/// Waits until the thread does not work with a descriptor that does not lead to the endpoint any more, so that it may be
/// closed. A pump is short, and never sleeps.
pub fn quiesce(local: &Local, fd: i32) {
    while local.duty.using.is(fd) {
        sys::nap(10_000);
    }
}

/// The endpoint is over.
pub fn forget(local: &Local) {
    let fd = local.duty.fd.swap(0, Ordering::AcqRel) - 1;
    if fd >= 0 {
        let _ = control(DEL, fd, 0, local);
    }
    local.duty.state.store(OFF, Ordering::Relaxed);
}
