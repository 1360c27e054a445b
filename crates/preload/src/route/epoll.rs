//! `epoll_ctl`, `epoll_wait` and its kin: registrations of ring sockets are followed, and answered from memory.
//!
//! The kernel's own registration stays, and wakes the wait when a message arrives. From the first wait by a call we see it
//! is edge triggered and carries our mark, so that what the kernel reports for a ring socket can be told from the rest and
//! replaced by what memory says: level, edge and one-shot as the client asked.

use super::announced::Announced;
use super::signals::{Gaps, Own};
use super::wait::{self, FIRST_NAP, LONGEST_NAP, Limit};
use crate::fdtable;
use crate::guard;
use crate::init;
use crate::local::{Local, Watch};
use crate::log::warning;
use crate::next::{self, errno, set_errno};
use crate::process;
use crate::symbols::{EpollEvent, TimeSpec};
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicPtr, AtomicU8};
use nlmmap_ring::rx::Context;
use nlmmap_ring::sys;
use syscalls::Sysno;

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

/// How long a socket may be held by a call of the backing thread's that was under way, at most (nanoseconds, looks).
const MOMENT: u64 = 250_000;
const MOMENTS: u32 = 16;

/// How many registrations of ring sockets each descriptor, as an epoll instance, has: 0 for nearly all.
static COUNTS: [AtomicU8; fdtable::MOST] = [const { AtomicU8::new(0) }; fdtable::MOST];

fn count(ep: c_int) -> Option<&'static AtomicU8> {
    COUNTS.get(ep as u32 as usize)
}

#[inline(always)]
fn concerns_us(ep: c_int) -> bool {
    count(ep).is_some_and(|c| c.load(Relaxed) != 0)
}

/// Messages and errors so far: changes when there is something new.
fn arrivals(local: &Local) -> u64 {
    local.endpoint.control().map_or(0, |c| {
        c.counters.rx_frames.load(Relaxed) + c.counters.rx_copies.load(Relaxed) + u64::from(c.told.load(Relaxed))
    })
}

fn find(local: &'static Local, ep: c_int, fd: c_int) -> Option<&'static Watch> {
    local.watches.iter().find(|w| w.ep.load(Relaxed) == ep + 1 && w.fd.load(Relaxed) == fd)
}

fn set(local: &Local, watch: &Watch, events: u32, data: u64) {
    watch.events.store(events, Relaxed);
    watch.data.store(data, Relaxed);
    // A registration reports at once what is there already.
    watch.seen.store(arrivals(local).wrapping_sub(1), Relaxed);
    watch.armed.store(true, Relaxed);
}

fn add(local: &'static Local, ep: c_int, fd: c_int, events: u32, data: u64) {
    if find(local, ep, fd).is_some() {
        return;
    }
    // One whose mark the kernel may still hold comes last.
    let unused = |ended: bool| {
        local
            .watches
            .iter()
            .enumerate()
            .find(|(_, w)| if ended { w.ep.load(Relaxed) < 0 } else { w.ep.load(Relaxed) == 0 })
    };
    let free = unused(false).or_else(|| unused(true));
    let (Some((i, watch)), Some(n)) = (free, count(ep)) else {
        warning!("fd {fd} is in more epoll instances than are followed: instance {ep} reports it as a plain socket");
        return;
    };
    if watch.ep.load(Relaxed) != 0 {
        drop_watch(watch);
    }
    set(local, watch, events, data);
    watch.marked.store(false, Relaxed);
    watch.fd.store(fd, Relaxed);
    watch.ep.store(ep + 1, Relaxed);
    local.watching.fetch_max(i + 1, Relaxed);
    n.store(n.load(Relaxed).saturating_add(1), Relaxed);
}

/// Whose registrations have been marked, by the page of each: what an event's word that looks like a mark of ours leads to.
/// A [`Local`] fills a page and is never given back.
static MARKED: [AtomicPtr<Local>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];

fn marked(page: usize) -> Option<&'static AtomicPtr<Local>> {
    MARKED.get(page / sys::PAGE % MARKED.len())
}

/// The registration whose mark a word is. It may have ended, or have become another one.
fn of_mark(word: u64) -> Option<(&'static Local, &'static Watch)> {
    let (page, at) = (word as usize & !(sys::PAGE - 1), word as usize);
    let known = marked(page)?.load(Relaxed);
    if known.is_null() || page == 0 {
        return None;
    }
    let is_it = |local: &&'static Local| core::ptr::from_ref(*local) as usize == page;
    // SAFETY: null, or a Local, never given back.
    let local = match unsafe { known.as_ref() }.filter(is_it) {
        Some(local) => local,
        // Another one has taken its place in the table.
        None => fdtable::all().find(is_it)?,
    };
    let watch = local.watches.iter().find(|w| core::ptr::from_ref(*w) as usize == at)?;
    Some((local, watch))
}

/// A registration ends.
fn drop_watch(watch: &Watch) {
    let was = watch.ep.swap(0, Relaxed);
    if let Some(n) = count(was.abs() - 1) {
        n.store(n.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// A registration ends by a close that no hook saw. The kernel's, with our mark, is there for as long as a number that no hook
/// has seen keeps the socket: what it reports is known again until the place is needed for another.
fn end_unseen(watch: &Watch) {
    let was = watch.ep.load(Relaxed);
    if watch.marked.load(Relaxed) && was > 0 {
        watch.ep.store(-was, Relaxed);
    } else {
        drop_watch(watch);
    }
}

/// A descriptor leaves an endpoint: registrations by it are the kernel's alone from here on, in the client's words. They end
/// with the socket, which another process or an unseen number may keep.
pub(super) fn closing(local: &'static Local, fd: c_int) {
    for watch in local.watches.iter().filter(|w| w.ep.load(Relaxed) > 0 && w.fd.load(Relaxed) == fd) {
        if watch.marked.load(Relaxed) {
            let mut events = watch.events.load(Relaxed);
            if events & EPOLLONESHOT != 0 && !watch.armed.load(Relaxed) {
                events = EPOLLONESHOT;
            }
            let event = EpollEvent { events, data: watch.data.load(Relaxed) };
            let ep = watch.ep.load(Relaxed) - 1;
            // SAFETY: the event is a local.
            let _ = unsafe {
                sys::call(Sysno::epoll_ctl, [ep as usize, MOD as usize, fd as usize, &raw const event as usize, 0, 0])
            };
        }
        drop_watch(watch);
    }
}

/// A descriptor is closed that may be an epoll instance.
pub(super) fn closing_instance(ep: c_int) {
    if !concerns_us(ep) || process::is_vfork_child() {
        return;
    }
    for local in fdtable::all() {
        for watch in local.watches.iter().filter(|w| w.ep.load(Relaxed).abs() == ep + 1) {
            drop_watch(watch);
        }
    }
}

/// Registrations made before the socket was adopted, from `/proc/self/fdinfo`.
pub(super) fn find_watches(local: &'static Local, fd: c_int) {
    super::fds::each_open(|ep| {
        let mut link = [0u8; 32];
        let mut path = [0u8; 40];
        text(&mut path, b"/proc/self/fd/", ep);
        // SAFETY: a C string and a buffer of the stated length.
        let n = unsafe {
            sys::call(Sysno::readlink, [path.as_ptr() as usize, link.as_mut_ptr() as usize, link.len(), 0, 0, 0])
        };
        if n.is_ok_and(|n| link.get(..n) == Some(b"anon_inode:[eventpoll]")) && !fdtable::is_private(ep) {
            registrations(ep, &mut |at, events, data| {
                if at == fd {
                    add(local, ep, fd, events, data);
                }
            });
        }
    });
}

/// `prefix` and a decimal number as a C string.
fn text(to: &mut [u8; 40], prefix: &[u8], mut n: c_int) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(d) = digits.get_mut(at) {
            *d = b'0' + (n % 10) as u8;
        }
        n /= 10;
        if n == 0 || at == 0 {
            break;
        }
    }
    let tail = digits.get(at..).unwrap_or(&[]);
    *to = [0; 40];
    for (to, from) in to.iter_mut().zip(prefix.iter().chain(tail)) {
        *to = *from;
    }
}

/// Lines `tfd: 5 events: 19 data: 7 ...` (decimal, hexadecimal, hexadecimal) of an epoll instance.
fn registrations(ep: c_int, f: &mut dyn FnMut(c_int, u32, u64)) {
    let mut path = [0u8; 40];
    text(&mut path, b"/proc/self/fdinfo/", ep);
    // SAFETY: a C string; O_RDONLY | O_CLOEXEC.
    let file = unsafe { sys::call(Sysno::openat, [-100_isize as usize, path.as_ptr() as usize, 0o2_000_000, 0, 0, 0]) };
    let Ok(file) = file else { return };
    let mut buf = [0u8; 4096];
    let mut have = 0;
    while let Some(room) = buf.get_mut(have..) {
        // SAFETY: a buffer of the stated length.
        let n = unsafe { sys::call(Sysno::read, [file, room.as_mut_ptr() as usize, room.len(), 0, 0, 0]) };
        let Ok(n @ 1..) = n else { break };
        have += n;
        let whole = buf.get(..have).and_then(|b| b.iter().rposition(|c| *c == b'\n')).map_or(0, |p| p + 1);
        for line in buf.get(..whole).unwrap_or(&[]).split(|c| *c == b'\n') {
            let mut words = line.split(|c| *c == b' ' || *c == b'\t').filter(|w| !w.is_empty());
            if words.next() == Some(b"tfd:") {
                let fd = words.next().and_then(|w| digits(w, 10));
                let events = words.nth(1).and_then(|w| digits(w, 16));
                let data = words.nth(1).and_then(|w| digits(w, 16));
                if let (Some(fd), Some(events), Some(data)) = (fd, events, data) {
                    f(fd as c_int, events as u32, data);
                }
            }
        }
        buf.copy_within(whole..have, 0);
        have -= whole;
    }
    sys::close(file as i32);
}

fn digits(word: &[u8], base: u32) -> Option<u64> {
    word.iter().try_fold(0u64, |n, b| {
        let d = (*b as char).to_digit(base)?;
        n.checked_mul(u64::from(base))?.checked_add(u64::from(d))
    })
}

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

/// Has the kernel wake us by every arrival, under our own mark.
fn mark(ep: c_int, local: &'static Local, watch: &Watch) {
    if watch.marked.load(Relaxed) || watch.events.load(Relaxed) & EPOLLEXCLUSIVE != 0 {
        return;
    }
    let keep = watch.events.load(Relaxed) & EPOLLWAKEUP;
    let event = EpollEvent { events: EPOLLIN | EPOLLET | keep, data: core::ptr::from_ref(watch) as u64 };
    let args = [ep as usize, MOD as usize, watch.fd.load(Relaxed) as usize, &raw const event as usize, 0, 0];
    // SAFETY: the event is a local.
    let done = unsafe { sys::call(Sysno::epoll_ctl, args) };
    let page = core::ptr::from_ref(local);
    if let Some(slot) = marked(page as usize) {
        slot.store(page.cast_mut(), Relaxed);
    }
    watch.marked.store(done.is_ok(), Relaxed);
}

/// Calls `f` for each registration of a ring socket with `ep`. Whether its number is still the socket is not looked at: who
/// acts on the number, or reports it, asks [`fdtable::confirm`] first.
fn each(ep: c_int, mut f: impl FnMut(&'static Local, &'static Watch)) {
    for local in fdtable::all() {
        if !local.live.load(Relaxed) {
            continue;
        }
        // Most sockets have had one registration at a time, the first.
        for watch in local.watches.iter().take(local.watching.load(Relaxed)) {
            if watch.ep.load(Relaxed) == ep + 1 {
                entered(local, watch, &mut f);
            }
        }
    }
}

/// Calls `f` for a registration, if its number leads to a socket with a receive ring.
fn entered(local: &'static Local, watch: &'static Watch, f: impl FnOnce(&'static Local, &'static Watch)) {
    if fdtable::leads_to(watch.fd.load(Relaxed), local) && local.try_use() {
        if local.endpoint.rx().is_some() {
            f(local, watch);
        }
        local.leave_confirmed();
    }
}

/// What memory says of a registration; nothing when it may not report now.
fn events_of(local: &Local, watch: &Watch) -> u32 {
    let asked = watch.events.load(Relaxed);
    if asked & EPOLLONESHOT != 0 && !watch.armed.load(Relaxed) {
        return 0;
    }
    let events = wait::events(local) as u32 & (asked | EPOLLERR | EPOLLHUP);
    if asked & EPOLLET != 0 {
        let now = arrivals(local);
        if watch.seen.load(Relaxed) == now {
            return 0;
        }
        if events & !(4 | 0x100 | 0x200) == 0 && watch.seen.load(Relaxed) != now.wrapping_sub(1) {
            // What arrived was released before anybody looked: no edge.
            watch.seen.store(now, Relaxed);
            return 0;
        }
    }
    events
}

/// Reports: the client's word, and the registration's own bookkeeping.
fn report(local: &Local, watch: &Watch, events: u32) -> EpollEvent {
    watch.seen.store(arrivals(local), Relaxed);
    if watch.events.load(Relaxed) & EPOLLONESHOT != 0 {
        watch.armed.store(false, Relaxed);
    }
    EpollEvent { events, data: watch.data.load(Relaxed) }
}

/// `epoll_wait` in any form; `call` is the client's own, with a time limit and a room of our choice.
unsafe fn wait_any(
    ep: c_int,
    events: *mut EpollEvent,
    most: c_int,
    limit: Limit,
    call: impl Fn(*mut EpollEvent, c_int, Limit, Option<u64>, &Own) -> c_int,
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
        let (mut room, mut lost) = (true, false);
        each(ep, |local, watch| {
            mark(ep, local, watch);
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
            init::test_cancel();
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
                init::test_cancel();
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

/// What memory says of a registration that the kernel has reported, once its socket is pumped.
fn ours(
    ep: c_int,
    local: &'static Local,
    watch: &'static Watch,
    event: &EpollEvent,
    report_ours: bool,
) -> Option<EpollEvent> {
    let fd = watch.fd.load(Relaxed);
    if !fdtable::confirm(fd, local) {
        if fdtable::leads_to(fd, local) {
            return None;
        }
        end_unseen(watch);
        return of_ended(ep, watch, event);
    }
    if event.events & EPOLLERR != 0 {
        wait::fetch_error(local, fd);
    }
    wait::service(local, fd, Context::Wait);
    let now = events_of(local, watch);
    // Where it was not reported before the call, it is the next wait's.
    (now != 0 && report_ours).then(|| report(local, watch, now))
}

/// Whether the kernel has a registration with our mark.
#[cold]
fn is_registered(ep: c_int, watch: &Watch) -> bool {
    let mut found = false;
    registrations(ep, &mut |_, _, data| found |= data == core::ptr::from_ref(watch) as u64);
    found
}

/// What the kernel says of a socket that is no ring socket any more, in the words of the client's registration.
#[cold]
fn of_ended(ep: c_int, watch: &Watch, event: &EpollEvent) -> Option<EpollEvent> {
    // Reported because something of the client's keeps the socket, or because the backing thread was in a call when it was closed?
    // That one holds it for a moment, and no wait of the client's may tell.
    if watch.fd.load(Relaxed) >= 0 {
        for _ in 0..MOMENTS {
            if !is_registered(ep, watch) {
                return None;
            }
            sys::nap(MOMENT);
        }
        watch.fd.store(-1, Relaxed);
    }
    let events = event.events & (watch.events.load(Relaxed) | EPOLLERR | EPOLLHUP);
    (events != 0).then(|| EpollEvent { events, data: watch.data.load(Relaxed) })
}

/// Replaces what the kernel reported for ring sockets by what memory says, in place. Returns how many events are left.
unsafe fn sift(ep: c_int, events: *mut EpollEvent, n: c_int, report_ours: bool) -> c_int {
    let mut kept = 0;
    for i in 0..n.max(0) as usize {
        // SAFETY: the kernel has written `n` events there.
        let event = unsafe { events.add(i).read_unaligned() };
        let mut out = Some(event);
        if let Some((local, watch)) = of_mark(event.data) {
            // The mark itself is never the client's to see.
            out = None;
            match watch.ep.load(Relaxed) {
                at if at == ep + 1 => {
                    match local.live.load(Relaxed) && fdtable::leads_to(watch.fd.load(Relaxed), local) {
                        true => entered(local, watch, |l, w| out = ours(ep, l, w, &event, report_ours)),
                        // The backing thread has found that out.
                        false => {
                            end_unseen(watch);
                            out = of_ended(ep, watch, &event);
                        }
                    }
                }
                at if at == -(ep + 1) => out = of_ended(ep, watch, &event),
                _ => {}
            }
        }
        if let Some(event) = out {
            // SAFETY: `kept <= i`.
            unsafe { events.add(kept).write_unaligned(event) };
            kept += 1;
        }
    }
    kept as c_int
}

pub unsafe fn epoll_wait(ep: c_int, events: *mut EpollEvent, most: c_int, millis: c_int) -> c_int {
    if !concerns_us(ep) {
        // SAFETY: handed on as it came.
        return unsafe { next::epoll_wait(ep, events, most, millis) };
    }
    // SAFETY: the caller's duty.
    unsafe {
        wait_any(ep, events, most, Limit::millis(millis), |at, room, limit, most, own| {
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
        wait_any(ep, events, most, Limit::millis(millis), |at, room, limit, most, own| {
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
        wait_any(ep, events, most, Limit::spec(limit), |at, room, limit, most, own| {
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
