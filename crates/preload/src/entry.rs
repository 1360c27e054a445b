//! The exports, made from the table: arguments in, the route's answer out. No logic.
//!
//! Plain `extern "C"` with unwind tables: cancellation in glibc unwinds through these frames, and no value with a destructor
//! is alive across a `next::` call.

use crate::route;
use crate::symbols::*;
use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use nlmmap_ring::sys::{MMsgHdr, MsgHdr};

macro_rules! export {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty = $nr:ident;)*) => {
        $(
            /// The C function of this name.
            ///
            /// # Safety
            /// The duties of the C function.
            #[allow(non_snake_case, reason = "C names")]
            #[cfg_attr(not(any(test, fuzzing)), unsafe(no_mangle))]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the caller's duty.
                unsafe { route::$name($($arg),*) }
            }
        )*
    };
}
with_table!(export);
