//! `epoll_ctl`, `epoll_wait` and its kin: registrations of ring sockets are followed, and answered from memory.
//!
//! The kernel's own registration stays, and wakes the wait when a message arrives. From the first wait by a call we see it
//! is edge triggered and carries our mark, so that what the kernel reports for a ring socket can be told from the rest and
//! replaced by what memory says: level, edge and one-shot as the client asked.

mod earlier;
mod reports;
mod watches;

use super::announced::Announced;
use super::signals::{Gaps, Own};
use super::wait::{self, FIRST_NAP, LONGEST_NAP, Limit};
use crate::fdtable;
use crate::found;
use crate::guard;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{EpollEvent, TimeSpec};
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::rx::Context;
use reports::{each, events_of, report, sift};
use watches::{add, concerns_us, count, drop_watch, end_unseen, find, is_marked, mark, set};

pub(super) use earlier::find_watches;
pub(super) use watches::{closing, closing_instance};

const ADD: c_int = 1;
const DEL: c_int = 2;
const MOD: c_int = 3;
const EPOLLIN: u32 = 1;
const EPOLLERR: u32 = 8;
const EPOLLHUP: u32 = 16;
const EPOLLEXCLUSIVE: u32 = 1 << 28;
const EPOLLWAKEUP: u32 = 1 << 29;
const EPOLLONESHOT: u32 = 1 << 30;
const EPOLLET: u32 = 1 << 31;

pub unsafe fn epoll_ctl(ep: c_int, op: c_int, fd: c_int, event: *mut EpollEvent) -> c_int {
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: handed on as it came.
        return unsafe { next::epoll_ctl(ep, op, fd, event) };
    };
    // SAFETY: as above.
    let result = unsafe { next::epoll_ctl(ep, op, fd, event) };
    if result == 0 {
        let watch = find(local, ep, fd);
        // SAFETY: the kernel has just read the event (ADD and MOD only).
        let asked = if op == DEL || event.is_null() { None } else { Some(unsafe { event.read_unaligned() }) };
        match (op, watch, asked) {
            (DEL, Some(watch), _) => drop_watch(watch),
            (ADD, None, Some(e)) => add(local, ep, fd, e.events, e.data),
            (MOD, Some(watch), Some(e)) => {
                set(local, watch, e.events, e.data);
                // The kernel's registration is the client's again until the next wait.
                watch.marked.store(false, Relaxed);
            }
            _ => {}
        }
        // The kernel asks a socket for its state when it is added or changed, not when it leaves.
        if op != DEL && wait::wants_service(local) && local.endpoint.rx().is_some() {
            wait::service(local, fd, Context::Wait);
        }
    }
    local.leave();
    result
}

/// The client's call, into these events, of which there is room for so many.
type Call<'a> = dyn Fn(*mut EpollEvent, c_int, Limit, Option<u64>, &Own) -> c_int + 'a;

/// `epoll_wait` in any form; `call` is the client's own, with a time limit and a room of our choice.
unsafe fn wait_any(
    ep: c_int,
    events: *mut EpollEvent,
    most: c_int,
    limit: Limit,
    // Not generic: two more copies of all this would be a twentieth of the library.
    call: &Call<'_>,
) -> c_int {
    let saved = errno();
    let mut gaps = Gaps::new();
    let mut nap = FIRST_NAP;
    if events.is_null() || most <= 0 {
        return call(events, most, limit, None, &Own::NONE);
    }
    loop {
        let mut n = 0;
        let mut put = |event: EpollEvent| {
            // SAFETY: the client gives room for `most` events, and `n` is below that.
            unsafe { events.add(n as usize).write_unaligned(event) };
            n += 1;
            n < most
        };
        let (mut room, mut lost, mut unmarked) = (true, false, false);
        each(ep, |local, watch| {
            unmarked |= !mark(ep, local, watch);
            let fd = watch.fd.load(Relaxed);
            let wants = wait::wants_service(local);
            if (wants || events_of(local, watch) != 0) && !fdtable::confirm(fd, local) {
                lost = true;
                if !fdtable::leads_to(fd, local) {
                    end_unseen(watch);
                }
                return;
            }
            if wants {
                wait::service(local, fd, Context::Wait);
            }
            guard::note_call(local);
            let now = events_of(local, watch);
            if now != 0 && room {
                room = put(report(local, watch, now));
            }
        });
        if n > 0 {
            // The others', without sleeping, in what room is left.
            if n < most {
                // SAFETY: as above.
                let rest = unsafe { events.add(n as usize) };
                let more = call(rest, most - n, Limit::new(Some(0)), None, &Own::NONE).max(0);
                // SAFETY: as above.
                n += unsafe { sift(ep, rest, more, false) };
            }
            set_errno(saved);
            found::test_cancel();
            return n;
        }
        // Of many sockets one is likely to have something, and asking costs less than announcing a sleep on each.
        if count(ep).is_some_and(|n| n.load(Relaxed) > 1) && !limit.is_zero() {
            let result = call(events, most, Limit::new(Some(0)), None, &Own::NONE);
            if result < 0 {
                return result;
            }
            // SAFETY: as above.
            let n = unsafe { sift(ep, events, result, true) };
            if n > 0 {
                set_errno(saved);
                found::test_cancel();
                return n;
            }
        }
        let (mut ready, mut blocked) = (false, false);
        // A vfork child's numbers are its own, and the table its parent's: memory has nothing to say to it.
        let foreign = lost && process::is_vfork_child();
        let mut announced = Announced::new();
        each(ep, |local, watch| {
            announced.to(local);
            ready |= !foreign && events_of(local, watch) != 0;
            blocked |= wait::must_look_again(local);
        });
        let own = gaps.before(blocked);
        let result = announced.sleep(
            &own,
            || {
                if announced.has_more() {
                    each(ep, |local, _| announced.withdraw_from(local));
                }
            },
            || if ready { 0 } else { call(events, most, limit, blocked.then_some(nap), &own) },
        );
        if ready {
            continue;
        }
        if result < 0 {
            return result;
        }
        if blocked {
            nap = (nap * 2).min(LONGEST_NAP);
        }
        if unmarked && result > 0 {
            // Reported in the client's words, as the kernel's: the client shall find what it is told of.
            each(ep, |local, watch| {
                let fd = watch.fd.load(Relaxed);
                if !is_marked(watch) && fdtable::confirm(fd, local) {
                    wait::service(local, fd, Context::Wait);
                }
            });
        }
        // SAFETY: as above.
        let n = unsafe { sift(ep, events, result, true) };
        if n > 0 || limit.is_zero() {
            // A wait without time has pumped what the kernel reported; memory has the last word.
            if n == 0 && result > 0 {
                let mut n = 0;
                each(ep, |local, watch| {
                    let now = events_of(local, watch);
                    if now != 0 && n < most {
                        // SAFETY: as above.
                        unsafe { events.add(n as usize).write_unaligned(report(local, watch, now)) };
                        n += 1;
                    }
                });
                set_errno(saved);
                return n;
            }
            set_errno(saved);
            return n;
        }
        if result == 0 && limit.left() == Some(0) {
            set_errno(saved);
            return 0;
        }
    }
}

pub unsafe fn epoll_wait(ep: c_int, events: *mut EpollEvent, most: c_int, millis: c_int) -> c_int {
    if !concerns_us(ep) {
        // SAFETY: handed on as it came.
        return unsafe { next::epoll_wait(ep, events, most, millis) };
    }
    // SAFETY: the caller's duty.
    unsafe {
        wait_any(ep, events, most, Limit::millis(millis), &|at, room, limit, most, own| {
            if own.set().is_null() {
                return next::epoll_wait(ep, at, room, limit.left_millis(most));
            }
            next::epoll_pwait(ep, at, room, limit.left_millis(most), own.set())
        })
    }
}

pub unsafe fn epoll_pwait(
    ep: c_int,
    events: *mut EpollEvent,
    most: c_int,
    millis: c_int,
    mask: *const c_void,
) -> c_int {
    if !concerns_us(ep) {
        // SAFETY: handed on as it came.
        return unsafe { next::epoll_pwait(ep, events, most, millis, mask) };
    }
    // SAFETY: the caller's duty.
    unsafe {
        wait_any(ep, events, most, Limit::millis(millis), &|at, room, limit, most, own| {
            next::epoll_pwait(ep, at, room, limit.left_millis(most), own.unless(mask))
        })
    }
}

pub unsafe fn epoll_pwait2(
    ep: c_int,
    events: *mut EpollEvent,
    most: c_int,
    limit: *const TimeSpec,
    mask: *const c_void,
) -> c_int {
    if !concerns_us(ep) {
        // SAFETY: handed on as it came.
        return unsafe { next::epoll_pwait2(ep, events, most, limit, mask) };
    }
    // SAFETY: the caller's duty.
    unsafe {
        wait_any(ep, events, most, Limit::spec(limit), &|at, room, limit, most, own| {
            let left = limit.left_spec(most);
            next::epoll_pwait2(
                ep,
                at,
                room,
                left.as_ref().map_or(core::ptr::null(), core::ptr::from_ref),
                own.unless(mask),
            )
        })
    }
}
