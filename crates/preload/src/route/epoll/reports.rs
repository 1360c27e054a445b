//! What a wait reports of ring sockets: what memory says, in the place of what the kernel says.

use super::earlier::registrations;
use super::watches::{arrivals, end_unseen, of_mark};
use super::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLONESHOT};
use crate::fdtable;
use crate::local::{Local, Watch};
use crate::route::wait;
use crate::symbols::EpollEvent;
use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::rx::Context;
use nlmmap_ring::sys;

/// How long a socket may be held by a call of the backing thread's that was under way, at most (nanoseconds, looks).
const MOMENT: u64 = 250_000;
const MOMENTS: u32 = 16;

/// Calls `f` for each registration of a ring socket with `ep`. Whether its number is still the socket is not looked at: who
/// acts on the number, or reports it, asks [`fdtable::confirm`] first.
pub(super) fn each(ep: c_int, mut f: impl FnMut(&'static Local, &'static Watch)) {
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
pub(super) fn events_of(local: &Local, watch: &Watch) -> u32 {
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
pub(super) fn report(local: &Local, watch: &Watch, events: u32) -> EpollEvent {
    watch.seen.store(arrivals(local), Relaxed);
    if watch.events.load(Relaxed) & EPOLLONESHOT != 0 {
        watch.armed.store(false, Relaxed);
    }
    EpollEvent { events, data: watch.data.load(Relaxed) }
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
pub(super) unsafe fn sift(ep: c_int, events: *mut EpollEvent, n: c_int, report_ours: bool) -> c_int {
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
