//! The engine's memory from the allocator instead of `mmap`, for tools that know only that: miri, sanitizers.
//!
//! It cannot be mapped again, so a client cannot have it: the engine's tests play the client at the engine's own address.

extern crate std;

use super::PAGE;
use crate::errno::{Errno, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};

fn layout(len: usize) -> Result<Layout> {
    Layout::from_size_align(len.max(1), PAGE).map_err(|_| Errno::NOMEM)
}

/// Zeroed memory, page aligned.
pub(super) fn map(len: usize, _prot: u32, _flags: u32) -> Result<*mut u8> {
    // SAFETY: the size is at least 1.
    let at = unsafe { alloc_zeroed(layout(len)?) };
    if at.is_null() { Err(Errno::NOMEM) } else { Ok(at) }
}

/// Gives it back.
///
/// # Safety
/// `at` came from [`map`] with this very length, and nothing uses it any more.
pub unsafe fn unmap(at: *mut u8, len: usize) {
    if let Ok(layout) = layout(len) {
        // SAFETY: the caller's duty.
        unsafe { dealloc(at, layout) };
    }
}
