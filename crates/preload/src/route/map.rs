//! `mmap`, `munmap`, `mremap`: the client's view of the rings.

use crate::fdtable;
use crate::guard;
use crate::local::{Local, now_mapping};
use crate::log::{debug, info};
use crate::next::{self, set_errno};
use crate::route::options;
use crate::symbols::Ptr;
use core::ffi::{c_int, c_long};
use core::sync::atomic::Ordering::Relaxed;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;

const MAP_FIXED: c_int = 0x10;
const MAP_ANONYMOUS: c_int = 0x20;
const MAP_FIXED_NOREPLACE: c_int = 0x10_0000;
const FAILED: Ptr = usize::MAX as Ptr;

pub unsafe fn mmap(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr {
    if fd < 0 || flags & MAP_ANONYMOUS != 0 || !fdtable::is_adopted(fd) {
        let nr = if flags & MAP_FIXED != 0 && fdtable::live() > 0 { now_mapping() } else { 0 };
        // SAFETY: handed on as it came.
        let at = unsafe { next::mmap(addr, len, prot, flags, fd, off) };
        if nr != 0 && at != FAILED {
            unmapped(addr as usize, len, nr);
        }
        if at == FAILED && fd >= 0 && next::errno() == Errno::NODEV && options::ASKED.load(Relaxed) && is_netlink(fd) {
            // To a program that knows rings, a netlink socket can be mapped, and this one has none.
            set_errno(Errno::INVAL);
        }
        return at;
    }
    let Some(local) = fdtable::enter(fd) else {
        // SAFETY: as above.
        return unsafe { next::mmap(addr, len, prot, flags, fd, off) };
    };
    // SAFETY: the client's duty for a fixed address.
    let result = unsafe { map_rings(local, addr, len, prot, flags, off) };
    local.leave();
    match result {
        Ok(at) => at,
        Err(e) => {
            info!(
                "fd {fd}: mmap of {len} bytes at offset {off} refused with errno {} (the rings have {})",
                e.0,
                local.endpoint.map_len()
            );
            set_errno(e);
            FAILED
        }
    }
}

pub unsafe fn mmap64(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr {
    // SAFETY: the same function on a 64-bit machine.
    unsafe { mmap(addr, len, prot, flags, fd, off) }
}

fn is_netlink(fd: c_int) -> bool {
    sys::getsockopt::<i32>(fd, sys::SOL_SOCKET, 39).is_ok_and(|d| d == i32::from(sys::AF_NETLINK))
}

unsafe fn map_rings(
    local: &'static Local,
    addr: Ptr,
    len: usize,
    prot: c_int,
    flags: c_int,
    off: c_long,
) -> Result<Ptr> {
    if off != 0 || len == 0 {
        return Err(Errno::INVAL);
    }
    let fixed = if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 { Some(addr.cast::<u8>()) } else { None };
    let nr = now_mapping();
    // SAFETY: the client's duty: a fixed range is its own.
    let at = unsafe { local.endpoint.map(fixed, len, prot as u32)? };
    let len = sys::pages(len);
    if fixed.is_some() {
        unmapped(at as usize, len, nr);
    }
    let started = if local.add_range(at as usize, at as usize + len) { guard::start(local) } else { Err(Errno::NOMEM) };
    if let Err(e) = started {
        local.cut_range(at as usize, at as usize + len, now_mapping());
        // SAFETY: mapped above, not yet handed out.
        unsafe { sys::unmap(at, len) };
        return Err(e);
    }
    debug!("rings mapped at {at:?}, {len} bytes");
    Ok(at.cast())
}

/// A range is not what it was: mappings of rings that lay there before `nr` are gone.
fn unmapped(lo: usize, len: usize, nr: usize) {
    let hi = lo.saturating_add(sys::pages(len));
    for local in fdtable::all() {
        if local.overlaps(lo, hi) && local.try_use() {
            local.cut_range(lo, hi, nr);
            local.release();
        }
    }
}

pub unsafe fn munmap(addr: Ptr, len: usize) -> c_int {
    let nr = if fdtable::all().next().is_some() { now_mapping() } else { 0 };
    // SAFETY: handed on as it came.
    let result = unsafe { next::munmap(addr, len) };
    if nr != 0 && result == 0 && !crate::process::is_vfork_child() {
        unmapped(addr as usize, len, nr);
    }
    result
}

pub unsafe fn msync(addr: Ptr, len: usize, flags: c_int) -> c_int {
    const MS_SYNC: c_int = 4;
    if flags & MS_SYNC != 0 && fdtable::all().any(|l| l.covers(addr as usize)) {
        // A socket has nothing to be synchronized with.
        set_errno(Errno::INVAL);
        return -1;
    }
    // SAFETY: handed on as it came.
    unsafe { next::msync(addr, len, flags) }
}

pub unsafe fn mremap(addr: Ptr, old: usize, len: usize, flags: c_int, to: Ptr) -> Ptr {
    let nr = if fdtable::all().next().is_some() { now_mapping() } else { 0 };
    // SAFETY: handed on as it came.
    let at = unsafe { next::mremap(addr, old, len, flags, to) };
    if nr != 0 && at != FAILED {
        let lo = addr as usize;
        let ours = fdtable::all().find(|l| l.covers(lo));
        if let Some(local) = ours
            && local.try_use()
        {
            // The new range first, so that the count of mappings never passes through zero.
            let moved = at as usize != lo;
            if moved {
                local.add_range(at as usize, at as usize + sys::pages(len));
            }
            if old != 0 && (moved || len < old) {
                let from = if moved { lo } else { lo + sys::pages(len) };
                local.cut_range(from, lo + sys::pages(old), nr);
            }
            local.release();
        }
    }
    at
}
