//! The application's own calls, handed to the next object in the chain.
//!
//! That keeps other preloads, sanitizers and thread cancellation working. Until the constructor has run, and for names the
//! C library does not have, the kernel is called directly.

use crate::symbols::*;
use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, MMsgHdr, MsgHdr};
use syscalls::Sysno;

unsafe extern "C" {
    /// Where this thread's `errno` is: glibc and musl agree on the name.
    safe fn __errno_location() -> *mut c_int;
}

/// Sets `errno`.
#[cold]
pub fn set_errno(e: Errno) {
    // SAFETY: the C library's own word for this thread.
    unsafe { __errno_location().write(e.0) };
}

/// This thread's `errno`.
pub fn errno() -> Errno {
    // SAFETY: as above.
    Errno(unsafe { __errno_location().read() })
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

/// The arguments of the system call that stands in for a function: the same words, but for the checked (`__*_chk`) and
/// split ones.
fn words<const N: usize>(name: &str, args: [usize; N]) -> [usize; 6] {
    let mut out = [0; 6];
    for (to, from) in out.iter_mut().zip(args) {
        *to = from;
    }
    let [a, b, c, d, e, _] = out;
    match name {
        "__poll_chk" | "__read_chk" => [a, b, c, 0, 0, 0],
        // The kernel wants the size of the signal set (8 bytes) behind it.
        "ppoll" | "__ppoll_chk" => [a, b, c, d, 8, 0],
        "epoll_pwait" | "epoll_pwait2" => [a, b, c, d, e, 8],
        // pselect6 takes a pointer to (set, size); none here, since a mask cannot be given without a C library's help.
        "pselect" => [a, b, c, d, e, 0],
        "__recv_chk" => [a, b, c, e, 0, 0],
        "__recvfrom_chk" => [a, b, c, e, out[5], 0],
        "recv" | "send" => [a, b, c, d, 0, 0],
        // The C library's structure is not the kernel's, and a handler needs its restorer: nothing can stand in before the
        // chain is known, and nothing calls that early. EINVAL.
        "sigaction" | "signal" => [usize::MAX; 6],
        "closefrom" => [a, u32::MAX as usize, 0, 0, 0, 0],
        _ => out,
    }
}

macro_rules! hand_on {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty = $nr:ident;)*) => {
        $(
            /// Hands the call of this name on.
            ///
            /// # Safety
            /// The duties of the C function.
            #[inline]
            pub unsafe fn $name($($arg: $ty),*) -> $ret {
                let at = slot::$name.load(Ordering::Relaxed);
                if at == 0 {
                    // SAFETY: the caller's duty; the same arguments.
                    return Answer::answer(unsafe { sys::call(Sysno::$nr, words(stringify!($name), [$($arg as usize),*])) });
                }
                // SAFETY: the address is what the loader gave for this very name (`resolve`), and the signature is the C
                // library's (variadic functions take integers and pointers in the same registers on this machine).
                let f = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn($($ty),*) -> $ret>(at) };
                // SAFETY: the caller's duty.
                unsafe { f($($arg),*) }
            }
        )*

        /// Where calls are handed on to, one word for each name; 0: to the kernel.
        #[allow(non_upper_case_globals, missing_docs, reason = "one word for each C name")]
        pub mod slot {
            use super::AtomicUsize;
            $(pub static $name: AtomicUsize = AtomicUsize::new(0);)*
        }

        /// Resolves every name. `find` answers 0 for a name that the rest of the chain does not have.
        pub fn resolve(find: impl Fn(&core::ffi::CStr) -> usize) {
            $(
                let at = find(
                    // SAFETY: the literal ends with its only NUL.
                    unsafe { core::ffi::CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
                );
                // A chain that leads back to us would never end.
                if at != crate::entry::$name as *const () as usize {
                    slot::$name.store(at, Ordering::Relaxed);
                }
            )*
        }
    };
}
with_table!(hand_on);
