//! `mmap` of an endpoint's rings: the node itself, or where it cannot be mapped a memfd that the daemon takes as well.

use super::chain::beyond;
use super::request;
use super::table::Dev;
use crate::fdtable;
use crate::log::info;
use crate::next::{self, set_errno};
use crate::symbols::Ptr;
use core::ffi::{c_int, c_long};
use core::sync::atomic::Ordering;
use nlmmap_ring::device_abi as abi;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;

const MAP_SHARED: c_int = 1;
const MAP_TYPE: c_int = 0xf;
const MAP_FIXED: c_int = 0x10;
/// [`Dev::memory`] while there is none, and while a thread makes it.
const NO_MEMORY: c_int = -1;
const MAKING: c_int = -2;
const FAILED: Ptr = usize::MAX as Ptr;

/// The rings at an address of the client's choice or the kernel's.
unsafe fn map_rings(
    dev: &Dev,
    fd: c_int,
    addr: Ptr,
    len: usize,
    prot: c_int,
    flags: c_int,
    off: c_long,
) -> Result<Ptr> {
    if off != 0 || len == 0 {
        return Err(Errno::INVAL);
    }
    // From here on nobody changes the rings.
    let how = request::mapped(fd, true)?;
    // SAFETY: the caller's duty.
    let result = unsafe { map_as(dev, fd, how, addr, len, prot, flags) };
    if result.is_err() && !dev.is_mapped() {
        // Undone, as far as there still is a daemon.
        let _ = request::mapped(fd, false);
    }
    result
}

unsafe fn map_as(
    dev: &Dev,
    fd: c_int,
    how: abi::Mapped,
    addr: Ptr,
    len: usize,
    prot: c_int,
    flags: c_int,
) -> Result<Ptr> {
    let whole = (how.rx_len + how.tx_len) as usize;
    if sys::pages(len) != whole {
        info!("fd {fd}: mmap of {len} bytes refused: the rings have {whole}");
        return Err(Errno::INVAL);
    }
    let file = if how.how == abi::MAP_NODE { fd } else { memory(dev, fd, whole)? };
    // A private copy could never release a frame.
    let flags = flags & !MAP_TYPE | MAP_SHARED;
    // SAFETY: the client's duty for a fixed address.
    let at = unsafe { beyond::mmap(addr, whole, prot, flags, file, 0) };
    if at == FAILED {
        return Err(next::errno());
    }
    if flags & MAP_FIXED != 0 {
        super::table::unmapped(at as usize, whole);
    }
    // SAFETY: mapped above; both rings are of whole pages.
    unsafe {
        nlmmap_ring::endpoint::show_pages(at.cast(), how.rx_len as usize, prot as u32);
        nlmmap_ring::endpoint::show_pages(at.cast::<u8>().add(how.rx_len as usize), how.tx_len as usize, prot as u32);
    }
    if !dev.add_range(at as usize, at as usize + whole) {
        // SAFETY: mapped above, not yet handed out.
        unsafe { sys::unmap(at.cast(), whole) };
        return Err(Errno::NOMEM);
    }
    Ok(at)
}

/// The memfd that a character device's rings lie in.
fn memory(dev: &Dev, fd: c_int, len: usize) -> Result<c_int> {
    let mut patience = 10_000;
    loop {
        match dev.memory.compare_exchange(NO_MEMORY, MAKING, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            // Another thread maps the rings as well, or one did when the process was forked, which is in no hurry here.
            Err(MAKING) if patience > 0 => sys::nap(100_000),
            Err(MAKING) => break,
            Err(known) => return Ok(known),
        }
        patience -= 1;
    }
    let made = give(fd, len);
    dev.memory.store(*made.as_ref().unwrap_or(&NO_MEMORY), Ordering::Relaxed);
    made
}

/// Makes it and has the daemon take it: what the rings hold by then comes along.
fn give(fd: c_int, len: usize) -> Result<c_int> {
    let file = sys::memfd(len)?;
    let mut number = file;
    if let Err(e) = request::with(fd, abi::MEMORY, &mut number) {
        info!("fd {fd}: the daemon does not take the rings' memory, errno {} (yama's ptrace_scope 3 forbids it)", e.0);
        sys::close(file);
        return Err(e);
    }
    Ok(fdtable::adopt_private(file))
}

/// `mmap` of a descriptor that is no ring socket of this process.
pub unsafe fn mmap(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr {
    match super::table::find(fd) {
        // SAFETY: handed on as it came.
        None => unsafe { beyond::mmap(addr, len, prot, flags, fd, off) },
        // SAFETY: the caller's duty.
        Some(dev) => unsafe { serve(dev, addr, len, prot, flags, fd, off) },
    }
}

unsafe fn serve(dev: &Dev, addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr {
    // SAFETY: the caller's duty.
    match unsafe { map_rings(dev, fd, addr, len, prot, flags, off) } {
        Ok(at) => at,
        Err(super::GONE) => {
            super::table::remove(fd);
            // SAFETY: handed on as it came.
            unsafe { beyond::mmap(addr, len, prot, flags, fd, off) }
        }
        Err(e) => {
            set_errno(e);
            FAILED
        }
    }
}

pub unsafe fn mmap64(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr {
    // SAFETY: the same function on a 64-bit machine.
    unsafe { mmap(addr, len, prot, flags, fd, off) }
}

pub unsafe fn munmap(addr: Ptr, len: usize) -> c_int {
    // SAFETY: handed on as it came.
    let result = unsafe { beyond::munmap(addr, len) };
    if result == 0 {
        super::table::unmapped(addr as usize, len);
    }
    result
}

pub unsafe fn msync(addr: Ptr, len: usize, flags: c_int) -> c_int {
    const MS_SYNC: c_int = 4;
    if flags & MS_SYNC != 0 && super::table::covers(addr as usize) {
        // A socket has nothing to be synchronized with.
        set_errno(Errno::INVAL);
        return -1;
    }
    // SAFETY: handed on as it came.
    unsafe { beyond::msync(addr, len, flags) }
}

pub unsafe fn mremap(addr: Ptr, old: usize, len: usize, flags: c_int, to: Ptr) -> Ptr {
    // SAFETY: handed on as it came.
    let at = unsafe { beyond::mremap(addr, old, len, flags, to) };
    if at != FAILED && super::table::covers(addr as usize) {
        super::table::moved(addr as usize, old, at as usize, len);
    }
    at
}
