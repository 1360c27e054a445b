//! The constructor, in order:
//!
//! 1. resolve every `next` name, here and nowhere else: a failed look-up inside a hook allocates, and an allocator whose own
//!    calls lead back to us would never return
//! 2. find the few C library functions we use ourselves
//! 3. read `NLMMAP_STRICT`, `NLMMAP_LOG` and `NLMMAP_DEVICE` from the environment, once

use crate::found::{PTHREAD_CREATE, PTHREAD_DETACH, TESTCANCEL};
use crate::{fork, log, next};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::Ordering;

pub use crate::found::{STRICT, test_cancel};

/// The address the loader gave for a name that may be missing: a weak reference, read through the offset table, since the
/// language has no weak imports.
macro_rules! weak {
    ($name:literal) => {{
        let at: usize;
        // SAFETY: reads one word of our own offset table.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) at,
                options(nostack, preserves_flags)
            );
        }
        at
    }};
}

type DlSym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

fn symbol(dlsym: usize, handle: usize, name: &CStr) -> usize {
    if dlsym == 0 {
        return 0;
    }
    // SAFETY: the address of dlsym, with its C signature.
    let f = unsafe { core::mem::transmute::<usize, DlSym>(dlsym) };
    // SAFETY: handle is RTLD_NEXT or RTLD_DEFAULT; the name is a C string.
    unsafe { f(handle as *mut c_void, name.as_ptr()) as usize }
}

const RTLD_NEXT: usize = usize::MAX;

extern "C" fn construct(_argc: c_int, _argv: *const *const c_char, env: *const *const c_char) {
    let dlsym = weak!("dlsym");
    next::resolve(|name| symbol(dlsym, RTLD_NEXT, name));
    // RTLD_NEXT and not a direct reference: these must be the C library's own.
    for (slot, name) in [
        (&PTHREAD_CREATE, c"pthread_create"),
        (&PTHREAD_DETACH, c"pthread_detach"),
        (&TESTCANCEL, c"pthread_testcancel"),
    ] {
        slot.store(symbol(dlsym, RTLD_NEXT, name), Ordering::Relaxed);
    }
    fork::announce();
    crate::process::construct(
        symbol(dlsym, RTLD_NEXT, c"__register_atfork"),
        symbol(dlsym, RTLD_NEXT, c"pthread_atfork"),
    );
    // Only glibc hands constructors the program's arguments and environment; others leave whatever was in the registers.
    let env = if symbol(dlsym, 0, c"gnu_get_libc_version") != 0 { env } else { core::ptr::null() };
    if let Some(value) = variable(env, b"NLMMAP_STRICT=") {
        STRICT.store(!matches!(value, b"" | b"0"), Ordering::Relaxed);
    }
    if let Some(value) = variable(env, b"NLMMAP_LOG=") {
        log::set_level(value);
    }
    if let Some(value) = variable(env, b"NLMMAP_DEVICE=") {
        crate::device::node::configure(value);
    }
}

/// A variable's value in the environment the loader hands to constructors (glibc), or in the process's own (`env` is null).
fn variable(env: *const *const c_char, name: &[u8]) -> Option<&'static [u8]> {
    let mut at = env;
    if at.is_null() {
        let environ = weak!("environ") as *const *const *const c_char;
        if environ.is_null() {
            return None;
        }
        // SAFETY: the C library's `environ`, set before constructors run.
        at = unsafe { environ.read() };
    }
    while !at.is_null() {
        // SAFETY: the environment ends with a null pointer.
        let entry = unsafe { at.read() };
        if entry.is_null() {
            break;
        }
        // SAFETY: each entry is a C string that outlives the constructor (the stack of the program's start).
        let text = unsafe { CStr::from_ptr(entry) }.to_bytes();
        if let Some(value) = text.strip_prefix(name) {
            return Some(value);
        }
        // SAFETY: not yet at the null pointer.
        at = unsafe { at.add(1) };
    }
    None
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = construct;
