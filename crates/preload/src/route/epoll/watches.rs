//! Registrations of ring sockets with epoll instances: which there are, and which word of the kernel's means which.

use super::{EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLONESHOT, EPOLLWAKEUP, MOD};
use crate::fdtable;
use crate::local::{Local, Watch};
use crate::log::warning;
use crate::process;
use crate::symbols::EpollEvent;
use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicPtr, AtomicU8};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// How many registrations of ring sockets each descriptor, as an epoll instance, has: 0 for nearly all.
static COUNTS: [AtomicU8; fdtable::MOST] = [const { AtomicU8::new(0) }; fdtable::MOST];

pub(super) fn count(ep: c_int) -> Option<&'static AtomicU8> {
    COUNTS.get(ep as u32 as usize)
}

#[inline(always)]
pub(super) fn concerns_us(ep: c_int) -> bool {
    count(ep).is_some_and(|c| c.load(Relaxed) != 0)
}

/// Messages and errors so far: changes when there is something new.
pub(super) fn arrivals(local: &Local) -> u64 {
    local.endpoint.control().map_or(0, |c| {
        c.counters.rx_frames.load(Relaxed) + c.counters.rx_copies.load(Relaxed) + u64::from(c.told.load(Relaxed))
    })
}

pub(super) fn find(local: &'static Local, ep: c_int, fd: c_int) -> Option<&'static Watch> {
    local.watches.iter().find(|w| w.ep.load(Relaxed) == ep + 1 && w.fd.load(Relaxed) == fd)
}

pub(super) fn set(local: &Local, watch: &Watch, events: u32, data: u64) {
    watch.events.store(events, Relaxed);
    watch.data.store(data, Relaxed);
    // A registration reports at once what is there already.
    watch.seen.store(arrivals(local).wrapping_sub(1), Relaxed);
    watch.armed.store(true, Relaxed);
}

pub(super) fn add(local: &'static Local, ep: c_int, fd: c_int, events: u32, data: u64) {
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
pub(super) fn of_mark(word: u64) -> Option<(&'static Local, &'static Watch)> {
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

/// Whether the kernel reports a registration by our mark.
pub(super) fn is_marked(watch: &Watch) -> bool {
    watch.marked.load(Relaxed)
}

/// Has the kernel wake us by every arrival, under our own mark. `false`: it reports the client's words, because it cannot change
/// them (`EPOLLEXCLUSIVE`) or does not.
pub(super) fn mark(ep: c_int, local: &'static Local, watch: &Watch) -> bool {
    if is_marked(watch) {
        return true;
    }
    if watch.events.load(Relaxed) & EPOLLEXCLUSIVE != 0 {
        return false;
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
    done.is_ok()
}

/// A registration ends.
pub(super) fn drop_watch(watch: &Watch) {
    let was = watch.ep.swap(0, Relaxed);
    if let Some(n) = count(was.abs() - 1) {
        n.store(n.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// A registration ends by a close that no hook saw. The kernel's, with our mark, is there for as long as a number that no hook
/// has seen keeps the socket: what it reports is known again until the place is needed for another.
pub(super) fn end_unseen(watch: &Watch) {
    let was = watch.ep.load(Relaxed);
    if watch.marked.load(Relaxed) && was > 0 {
        watch.ep.store(-was, Relaxed);
    } else {
        drop_watch(watch);
    }
}

/// A descriptor leaves an endpoint: registrations by it are the kernel's alone from here on, in the client's words. They end
/// with the socket, which another process or an unseen number may keep.
pub(in crate::route) fn closing(local: &'static Local, fd: c_int) {
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
pub(in crate::route) fn closing_instance(ep: c_int) {
    if !concerns_us(ep) || process::is_vfork_child() {
        return;
    }
    for local in fdtable::all() {
        for watch in local.watches.iter().filter(|w| w.ep.load(Relaxed).abs() == ep + 1) {
            drop_watch(watch);
        }
    }
}
