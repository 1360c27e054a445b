//! The device's place in the chain: behind the hooks, before the next object.
//!
//! A hook hands a call on by `next::NAME`, which goes to an address found at the start. With a device, that address becomes
//! the function of the same name here, and what was there is what that hands on to.

use super::{descriptors, map, names, node, options, receive, send};
use crate::elf::is_address;
use crate::next::slot;
use crate::symbols::{IoVec, Ptr, TimeSpec};
use core::ffi::{c_int, c_long, c_uint, c_ulong};
use core::sync::atomic::{AtomicUsize, Ordering};
use nlmmap_ring::sys::{MMsgHdr, MsgHdr};

macro_rules! chain {
    ($($home:ident :: $name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty;)*) => {
        /// The next object's functions.
        pub mod beyond {
            use super::*;
            $(
                /// Hands the call of this name on.
                ///
                /// # Safety
                /// The duties of the C function.
                pub unsafe fn $name($($arg: $ty),*) -> $ret {
                    let at = kept::$name.load(Ordering::Relaxed);
                    // SAFETY: an address: only a name that had a next function has been given one here (`join`), and it is called
                    // by nobody else; that function's signature is the C library's.
                    let f = unsafe { core::mem::transmute::<usize, unsafe extern "C" fn($($ty),*) -> $ret>(at) };
                    // SAFETY: the caller's duty.
                    unsafe { f($($arg),*) }
                }
            )*
        }

        #[allow(non_upper_case_globals, reason = "one word for each C name")]
        mod kept {
            use super::AtomicUsize;
            $(pub static $name: AtomicUsize = AtomicUsize::new(0);)*
        }

        mod served {
            use super::*;
            $(
                pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
                    // SAFETY: the caller's duty.
                    unsafe { $home::$name($($arg),*) }
                }
            )*
        }

        /// Takes the place, once, before the program runs.
        pub fn join() {
            $(
                let next = slot::$name.load(Ordering::Relaxed);
                if is_address(next) {
                    kept::$name.store(next, Ordering::Relaxed);
                    slot::$name.store(served::$name as *const () as usize, Ordering::Release);
                }
            )*
        }
    };
}

chain! {
    node::socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    names::bind(fd: c_int, name: Ptr, len: c_uint) -> c_int;
    names::connect(fd: c_int, name: Ptr, len: c_uint) -> c_int;
    names::getsockname(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int;
    names::getpeername(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int;
    node::shutdown(fd: c_int, how: c_int) -> c_int;
    names::ioctl(fd: c_int, number: c_ulong, argument: c_ulong) -> c_int;
    names::fstat(fd: c_int, status: Ptr) -> c_int;
    names::fstat64(fd: c_int, status: Ptr) -> c_int;
    names::__fxstat(version: c_int, fd: c_int, status: Ptr) -> c_int;
    names::__fxstat64(version: c_int, fd: c_int, status: Ptr) -> c_int;
    options::setsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: c_uint) -> c_int;
    options::getsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: *mut c_uint) -> c_int;
    map::mmap(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr;
    map::mmap64(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr;
    map::munmap(addr: Ptr, len: usize) -> c_int;
    map::mremap(addr: Ptr, old: usize, len: usize, flags: c_int, to: Ptr) -> Ptr;
    map::msync(addr: Ptr, len: usize, flags: c_int) -> c_int;
    descriptors::close(fd: c_int) -> c_int;
    descriptors::close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    descriptors::closefrom(first: c_int) -> ();
    descriptors::dup(fd: c_int) -> c_int;
    descriptors::dup2(fd: c_int, to: c_int) -> c_int;
    descriptors::dup3(fd: c_int, to: c_int, flags: c_int) -> c_int;
    descriptors::fcntl(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int;
    descriptors::fcntl64(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int;
    receive::recv(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize;
    receive::recvfrom(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> isize;
    receive::recvmsg(fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize;
    receive::recvmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int, limit: *mut TimeSpec) -> c_int;
    receive::read(fd: c_int, buf: Ptr, len: usize) -> isize;
    receive::readv(fd: c_int, iov: *const IoVec, nr: c_int) -> isize;
    send::send(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize;
    send::sendto(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: c_uint) -> isize;
    send::sendmsg(fd: c_int, msg: *const MsgHdr, flags: c_int) -> isize;
    send::sendmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int) -> c_int;
    send::write(fd: c_int, buf: Ptr, len: usize) -> isize;
    send::writev(fd: c_int, iov: *const IoVec, nr: c_int) -> isize;
}
