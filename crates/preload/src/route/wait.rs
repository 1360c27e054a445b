//! `poll`, `ppoll` and their checked forms, and the parts that every kind of wait shares.
//!
//! A wait looks at memory first. Only when that has no answer does the client's own call go to the kernel, with the real
//! sockets in it; when it returns, the sockets it reports are pumped and memory is asked again (readiness.md).

use super::announced::Announced;
use super::signals::{Gaps, Own};
use crate::fdtable;
use crate::found;
use crate::guard;
use crate::local::Local;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{PollFd, TimeSpec};
use core::ffi::{c_int, c_ulong, c_void};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use nlmmap_ring::control::flag;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::readiness::{self, ERR, IN, NVAL, RDNORM};
use nlmmap_ring::rx::Context;
use nlmmap_ring::socket::Fd;
use nlmmap_ring::sys::{self, SOL_SOCKET};

const HUP: i16 = 0x10;

/// When a wait must end.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// `None`: never.
    nanos: Option<u64>,
    deadline: u64,
}

impl Limit {
    pub(super) fn new(nanos: Option<u64>) -> Limit {
        // The clock is read only for a wait that may have to be taken up again.
        let deadline = match nanos {
            Some(n @ 1..) => sys::now().saturating_add(n),
            _ => 0,
        };
        Limit { nanos, deadline }
    }

    pub(super) fn millis(millis: c_int) -> Limit {
        Limit::new(u64::try_from(millis).ok().map(|m| m * 1_000_000))
    }

    /// # Safety
    /// Null or readable.
    pub(super) unsafe fn spec(limit: *const TimeSpec) -> Limit {
        // SAFETY: the caller's duty.
        let limit = unsafe { limit.as_ref() };
        Limit::new(
            limit.map(|t| {
                (t.tv_sec.max(0) as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec.max(0) as u64)
            }),
        )
    }

    /// Nanoseconds left; `None` for ever.
    pub(super) fn left(&self) -> Option<u64> {
        match self.nanos {
            None => None,
            Some(0) => Some(0),
            Some(_) => Some(self.deadline.saturating_sub(sys::now())),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.nanos == Some(0)
    }

    /// What is left, in the unit of `poll`, rounded up so that no wait ends early.
    pub(super) fn left_millis(&self, most: Option<u64>) -> c_int {
        let left = match (self.left(), most) {
            (None, None) => return -1,
            (None, Some(n)) | (Some(n), None) => n,
            (Some(a), Some(b)) => a.min(b),
        };
        c_int::try_from(left.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    }

    /// What is left as a `timespec`; `None` for ever.
    pub(super) fn left_spec(&self, most: Option<u64>) -> Option<TimeSpec> {
        let left = match (self.left(), most) {
            (None, None) => return None,
            (None, Some(n)) | (Some(n), None) => n,
            (Some(a), Some(b)) => a.min(b),
        };
        Some(TimeSpec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 })
    }
}

/// While the ring cannot take what waits in the socket, and nothing tells when it can again, memory is looked at after each
/// of these, doubling (nanoseconds).
pub(super) const FIRST_NAP: u64 = 200_000;
pub(super) const LONGEST_NAP: u64 = 5_000_000;

/// The events that memory shows.
pub(super) fn events(local: &Local) -> i16 {
    local.endpoint.control().map_or(0, |control| readiness::mask(&local.endpoint, control))
}

/// Whether a wait must pump before it looks: strict mode's dumps go on at each wait; a backlog may find frames, a doorbell
/// may have become obsolete, and behind a full ring an error may wait. Where memory has nothing and kicks have left the socket
/// alone, asking it first whether it is readable would only be one more call.
pub(super) fn wants_service(local: &Local) -> bool {
    local.endpoint.strict.load(Relaxed)
        || local.endpoint.control().is_some_and(|c| {
            let flags = c.flags.load(Relaxed);
            flags & (flag::BLOCKED | flag::BELL) != 0
                || c.unplaced.load(Relaxed) > 0
                || flags & flag::BEHIND != 0 && !readiness::readable(&local.endpoint, c)
        })
}

pub(super) fn service(local: &Local, fd: c_int, context: Context) {
    local.endpoint.service(&Fd(fd), process::pid(), context);
}

/// Whether messages wait in the real socket that the ring cannot take.
pub(super) fn is_blocked(local: &Local) -> bool {
    local.endpoint.control().is_some_and(|c| c.has(flag::BLOCKED))
}

/// Whether a sleep must be short: messages wait that nothing will announce, or another thread may take the message that
/// this one waits for and cannot ring for it.
pub(super) fn must_look_again(local: &Local) -> bool {
    is_blocked(local) || local.endpoint.control().is_some_and(|c| c.has(flag::NO_BELL) && c.waiters.load(Relaxed) > 1)
}

/// Announces a sleep on the real socket. Afterwards either memory shows what has come, or the real socket stays readable for
/// as long as it does: any later pump sees the announcement, any earlier one is over (readiness.md).
pub(super) fn announce(local: &Local) {
    guard::enter_wait(local);
    if let Some(control) = local.endpoint.control() {
        control.waiters.fetch_add(1, SeqCst);
        if !control.lock.is_free() {
            drop(control.lock.hold(process::pid()));
        }
    }
}

/// Takes the announcement back.
pub(super) fn withdraw(local: &Local) {
    if let Some(control) = local.endpoint.control() {
        // Saturating: a fork child may leave a wait that its parent entered.
        let _ = control.waiters.fetch_update(SeqCst, Relaxed, |n| Some(n.saturating_sub(1)));
    }
    guard::leave_wait(local);
}

/// The kernel reported an error on the real socket: from here on it is the endpoint's.
pub(super) fn fetch_error(local: &Local, fd: c_int) {
    let error: i32 = sys::getsockopt(fd, SOL_SOCKET, 4).unwrap_or(0);
    if error != 0
        && let Some(control) = local.endpoint.control()
    {
        local.endpoint.pass_on(control, Errno(error));
    }
}

/// The part of a `poll` that is ours: entries of sockets with a receive ring.
struct Entries {
    fds: *mut PollFd,
    nr: usize,
}

impl Entries {
    /// # Safety
    /// `fds` is valid for `nr` entries.
    unsafe fn each(&self, f: impl FnMut(&mut PollFd, &'static Local)) {
        // SAFETY: the caller's duty.
        unsafe { self.each_of(|_| true, f) };
    }

    /// Those for which `which` holds.
    ///
    /// # Safety
    /// As [`Self::each`].
    unsafe fn each_of(&self, which: impl Fn(&PollFd) -> bool, mut f: impl FnMut(&mut PollFd, &'static Local)) {
        process::pid();
        for i in 0..self.nr {
            // SAFETY: the caller's duty.
            let entry = unsafe { &mut *self.fds.add(i) };
            if which(entry)
                && fdtable::is_adopted(entry.fd)
                && let Some(local) = fdtable::borrow_more(entry.fd)
            {
                if local.endpoint.rx().is_some() {
                    f(entry, local);
                }
                local.leave_confirmed();
            }
        }
    }

    /// Puts entries whose socket cannot be pumped out of the kernel's sight: their sockets are readable, and must not end this
    /// one wait. Returns which of the first 64.
    unsafe fn hide_blocked(&self) -> u64 {
        let mut hidden = 0;
        for i in 0..self.nr.min(64) {
            // SAFETY: the caller's duty.
            let entry = unsafe { &mut *self.fds.add(i) };
            if let Some(local) = fdtable::borrow(entry.fd) {
                if local.endpoint.rx().is_some() && is_blocked(local) {
                    entry.fd = !entry.fd;
                    hidden |= 1 << i;
                }
                local.release();
            }
        }
        hidden
    }

    /// Undoes [`Self::hide_blocked`].
    unsafe fn show(&self, hidden: u64) {
        for i in (0..self.nr.min(64)).filter(|i| hidden >> i & 1 != 0) {
            // SAFETY: the caller's duty.
            let entry = unsafe { &mut *self.fds.add(i) };
            entry.fd = !entry.fd;
            // The kernel answers nothing for a negative number.
            entry.revents = 0;
        }
    }

    /// Whether any entry is ours.
    unsafe fn any(&self) -> bool {
        // SAFETY: the caller's duty.
        fdtable::live() > 0 && (0..self.nr).any(|i| fdtable::is_adopted(unsafe { (*self.fds.add(i)).fd }))
    }
}

/// `poll` in any form; `call` is the client's own, with a time limit of our choice.
///
/// # Safety
/// `fds` is valid for `nr` entries.
unsafe fn poll_any(
    fds: *mut PollFd,
    nr: usize,
    limit: Limit,
    call: impl Fn(*mut PollFd, Limit, Option<u64>, &Own) -> c_int,
) -> c_int {
    let entries = Entries { fds, nr };
    let saved = errno();
    let zero = Limit::new(Some(0));
    let mut nap = FIRST_NAP;
    let mut gaps = Gaps::new();
    loop {
        // 1. memory
        let (mut ready, mut ours, mut blocked, mut lost) = (0usize, 0usize, false, false);
        // SAFETY: the caller's duty, here and below.
        unsafe {
            entries.each(|entry, local| {
                entry.revents = 0;
                if wants_service(local) {
                    if !fdtable::confirm(entry.fd, local) {
                        lost = true;
                        return;
                    }
                    service(local, entry.fd, Context::Wait);
                }
                let now = events(local) & (entry.events | ERR);
                if now != 0 && !fdtable::confirm(entry.fd, local) {
                    lost = true;
                    return;
                }
                ours += 1;
                entry.revents = now;
                ready += usize::from(now != 0);
                guard::note_call(local);
            });
        }
        if lost && process::is_vfork_child() {
            // The table stays its parent's: the kernel knows what the child's numbers are.
            return call(fds, limit, None, &Own::NONE);
        }
        if ready > 0 {
            if ours == nr && ready == nr {
                set_errno(saved);
                found::test_cancel();
                return ready as c_int;
            }
            // The state of the others, without sleeping; and of ours that memory has nothing for: a message may have come to them.
            if call(fds, zero, None, &Own::NONE) < 0 {
                return -1;
            }
            // SAFETY: as above.
            return unsafe { settle(&entries, saved, Told::All) };
        }
        // 2. the kernel: of many sockets one is likely to have something, and asking costs less than announcing a sleep on each
        if ours > 1 && !limit.is_zero() {
            let result = call(fds, zero, None, &Own::NONE);
            if result < 0 {
                return result;
            }
            if result > 0 {
                // SAFETY: as above.
                let count = unsafe { settle(&entries, saved, Told::Only) };
                if count > 0 {
                    found::test_cancel();
                    return count;
                }
            }
        }
        let mut announced = Announced::new();
        // SAFETY: as above.
        unsafe {
            entries.each(|entry, local| {
                announced.to(local);
                ready += usize::from(events(local) & (entry.events | ERR) != 0);
                blocked |= must_look_again(local);
            });
        }
        // SAFETY: as above.
        let hidden = if ready == 0 && blocked { unsafe { entries.hide_blocked() } } else { 0 };
        let own = gaps.before(blocked);
        let result = announced.sleep(
            &own,
            // SAFETY: as above.
            || unsafe {
                entries.show(hidden);
                if announced.has_more() {
                    entries.each(|_, local| announced.withdraw_from(local));
                }
            },
            || if ready > 0 { 0 } else { call(fds, limit, blocked.then_some(nap), &own) },
        );
        if blocked {
            nap = (nap * 2).min(LONGEST_NAP);
        }
        if ready > 0 {
            continue;
        }
        if result < 0 {
            return result;
        }
        // SAFETY: as above.
        let count = unsafe { settle(&entries, saved, if blocked { Told::Pump } else { Told::All }) };
        if count > 0 || limit.is_zero() || limit.left() == Some(0) {
            return count;
        }
    }
}

/// Which entries the kernel's answer is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Those it reports; memory has nothing for the others.
    Only,
    /// All.
    All,
    /// All, and those of ours are to be pumped whatever it says.
    Pump,
}

/// After the kernel's answer: pumps what it reported, puts our answers in, counts.
unsafe fn settle(entries: &Entries, saved: nlmmap_ring::Errno, which: Told) -> c_int {
    let blocked = which == Told::Pump;
    // SAFETY: the caller's duty for the entries.
    unsafe {
        entries.each_of(
            |entry| which != Told::Only || entry.revents != 0,
            |entry, local| {
                let told = entry.revents;
                if (told != 0 || blocked || events(local) & (entry.events | ERR) != 0)
                    && !fdtable::confirm(entry.fd, local)
                {
                    return;
                }
                if told & ERR != 0 {
                    fetch_error(local, entry.fd);
                }
                if told & (IN | RDNORM | ERR) != 0 || blocked {
                    service(local, entry.fd, Context::Wait);
                }
                entry.revents = events(local) & (entry.events | ERR) | told & (NVAL | HUP);
            },
        );
    }
    set_errno(saved);
    // SAFETY: as above.
    (0..entries.nr).filter(|i| unsafe { (*entries.fds.add(*i)).revents != 0 }).count() as c_int
}

pub unsafe fn poll(fds: *mut PollFd, nr: c_ulong, millis: c_int) -> c_int {
    // SAFETY: the caller's duty.
    if fds.is_null() || !unsafe { Entries { fds, nr: nr as usize }.any() } {
        // SAFETY: handed on as it came.
        return unsafe { next::poll(fds, nr, millis) };
    }
    // SAFETY: as above.
    unsafe {
        poll_any(fds, nr as usize, Limit::millis(millis), |fds, limit, most, own| {
            if own.set().is_null() {
                return next::poll(fds, nr, limit.left_millis(most));
            }
            let left = limit.left_spec(most);
            next::ppoll(fds, nr, left.as_ref().map_or(core::ptr::null(), core::ptr::from_ref), own.set())
        })
    }
}

pub unsafe fn __poll_chk(fds: *mut PollFd, nr: c_ulong, millis: c_int, size: usize) -> c_int {
    if size / size_of::<PollFd>() < nr as usize {
        // SAFETY: handed on: the C library ends the program.
        return unsafe { next::__poll_chk(fds, nr, millis, size) };
    }
    // SAFETY: the caller's duty.
    unsafe { poll(fds, nr, millis) }
}

pub unsafe fn ppoll(fds: *mut PollFd, nr: c_ulong, limit: *const TimeSpec, mask: *const c_void) -> c_int {
    // SAFETY: the caller's duty.
    if fds.is_null() || !unsafe { Entries { fds, nr: nr as usize }.any() } {
        // SAFETY: handed on as it came.
        return unsafe { next::ppoll(fds, nr, limit, mask) };
    }
    // SAFETY: as above.
    unsafe {
        poll_any(fds, nr as usize, Limit::spec(limit), |fds, limit, most, own| {
            let left = limit.left_spec(most);
            next::ppoll(fds, nr, left.as_ref().map_or(core::ptr::null(), core::ptr::from_ref), own.unless(mask))
        })
    }
}

pub unsafe fn __ppoll_chk(
    fds: *mut PollFd,
    nr: c_ulong,
    limit: *const TimeSpec,
    mask: *const c_void,
    size: usize,
) -> c_int {
    if size / size_of::<PollFd>() < nr as usize {
        // SAFETY: handed on: the C library ends the program.
        return unsafe { next::__ppoll_chk(fds, nr, limit, mask, size) };
    }
    // SAFETY: the caller's duty.
    unsafe { ppoll(fds, nr, limit, mask) }
}
