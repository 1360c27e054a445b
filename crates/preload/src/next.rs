//! The application's own calls, handed to the next object in the chain.
//!
//! That keeps other preloads, sanitizers and thread cancellation working. The constructor looks every name up. A call that comes
//! before it (from a `preinit_array`, another library's constructor, a sanitizer's runtime) looks its own name up in the loader's
//! list ([`elf`]); for names that the chain does not have, the kernel is called ([`raw`]).

use crate::elf::{self, weak};
use crate::raw;
use crate::symbols::*;
use core::ffi::{CStr, c_int, c_long, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{MMsgHdr, MsgHdr};
use syscalls::Sysno;

/// Where this thread's `errno` is (glibc and musl agree on the name); null while this library has not been relocated.
#[inline]
fn errno_location() -> *mut c_int {
    let at = weak!("__errno_location");
    if at == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: the C library's function of this name takes nothing and returns the word's address.
    let f = unsafe { core::mem::transmute::<usize, extern "C" fn() -> *mut c_int>(at) };
    f()
}

/// Sets `errno`.
#[cold]
pub fn set_errno(e: Errno) {
    // SAFETY: null, or the C library's own word for this thread.
    if let Some(word) = unsafe { errno_location().as_mut() } {
        *word = e.0;
    }
}

/// This thread's `errno`.
pub fn errno() -> Errno {
    // SAFETY: as above.
    Errno(unsafe { errno_location().as_ref() }.copied().unwrap_or(0))
}

/// A system call's result as a C function gives it.
pub trait Answer {
    /// The value, or -1 with `errno` set.
    fn answer(result: Result<usize>) -> Self;
}

impl Answer for c_int {
    fn answer(result: Result<usize>) -> c_int {
        result.map_or_else(
            |e| {
                set_errno(e);
                -1
            },
            |v| v as c_int,
        )
    }
}
impl Answer for isize {
    fn answer(result: Result<usize>) -> isize {
        result.map_or_else(
            |e| {
                set_errno(e);
                -1
            },
            |v| v as isize,
        )
    }
}
impl Answer for Ptr {
    fn answer(result: Result<usize>) -> Ptr {
        result.map_or_else(
            |e| {
                set_errno(e);
                usize::MAX as Ptr
            },
            |v| v as Ptr,
        )
    }
}
impl Answer for usize {
    fn answer(result: Result<usize>) -> usize {
        result.unwrap_or_else(|e| {
            set_errno(e);
            usize::MAX
        })
    }
}
impl Answer for () {
    fn answer(_: Result<usize>) {}
}

macro_rules! hand_on {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty = $nr:ident;)*) => {
        $(
            /// Hands the call of this name on.
            ///
            /// # Safety
            /// The duties of the C function.
            #[inline]
            #[allow(non_snake_case, reason = "C names")]
            pub unsafe fn $name($($arg: $ty),*) -> $ret {
                let mut at = slot::$name.load(Ordering::Relaxed);
                if !elf::is_address(at) {
                    at = elf::first_use(&slot::$name, text::$name, crate::entry::$name as *const () as usize);
                    if at == 0 {
                        const SHAPE: raw::Shape = raw::shape(stringify!($name));
                        // SAFETY: the caller's duty; the same arguments.
                        return Answer::answer(unsafe { raw::call(SHAPE, Sysno::$nr, [$($arg as usize),*]) });
                    }
                }
                // SAFETY: the address is what the loader gave for this very name (`resolve`, `first_use`), and the signature is
                // the C library's (variadic functions take integers and pointers in the same registers on this machine).
                let f = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn($($ty),*) -> $ret>(at) };
                // SAFETY: the caller's duty.
                unsafe { f($($arg),*) }
            }
        )*

        /// Where calls are handed on to, one word for each name: [`elf::is_address`], 0 for not looked up yet, else to the kernel.
        #[allow(non_upper_case_globals, missing_docs, reason = "one word for each C name")]
        pub mod slot {
            use super::AtomicUsize;
            $(pub static $name: AtomicUsize = AtomicUsize::new(0);)*
        }

        #[allow(non_upper_case_globals, reason = "one word for each C name")]
        mod text {
            use core::ffi::CStr;
            $(
                pub const $name: &CStr =
                    // SAFETY: the literal ends with its only NUL.
                    unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) };
            )*
        }

        /// Resolves every name. `find` answers 0 for a name that the rest of the chain does not have.
        pub fn resolve(find: impl Fn(&CStr) -> usize) {
            $(elf::fill(&slot::$name, find(text::$name), crate::entry::$name as *const () as usize);)*
        }
    };
}
with_table!(hand_on);
