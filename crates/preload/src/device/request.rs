//! One ioctl on an endpoint, and memory for its argument.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use nlmmap_ring::device_abi::{self as abi, Mapped};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// The largest argument an ioctl number can tell.
pub const LARGEST: usize = 0x3fff;
const BUFFER: usize = 4 * sys::PAGE;

/// An ioctl whose argument is a structure, in and out.
///
/// # Errors
/// The daemon's answer; `ENOTCONN` or `ENODEV` when it is gone.
pub fn with<T: abi::Words>(fd: i32, number: u32, argument: &mut T) -> Result<usize> {
    // SAFETY: the number has the structure's size, so the kernel reads and writes as many bytes.
    unsafe { raw(fd, number, core::ptr::from_mut(argument).cast()) }
}

/// An ioctl of any number.
///
/// # Safety
/// The argument is valid for the size in the number, or lies in the client, whose duty it is (the kernel answers `EFAULT`).
pub unsafe fn raw(fd: i32, number: u32, argument: *mut u8) -> Result<usize> {
    // SAFETY: the caller's duty.
    unsafe { sys::call(Sysno::ioctl, [fd as usize, number as usize, argument as usize, 0, 0, 0]) }
}

/// A number with the size of its argument.
pub const fn sized(number: u32, size: usize) -> u32 {
    number | (size as u32) << 16
}

/// Says whether this process maps the rings; how they are mapped.
///
/// # Errors
/// `EINVAL` with no ring set.
pub fn mapped(fd: i32, mapped: bool) -> Result<Mapped> {
    let mut argument = Mapped { mapped: u32::from(mapped), ..Mapped::default() };
    with(fd, abi::MAPPED, &mut argument)?;
    Ok(argument)
}

/// Buffers that were used once, for the next call.
static SPARE: [AtomicPtr<u8>; 8] = [const { AtomicPtr::new(null_mut()) }; 8];

/// Memory for an argument: not on the stack, since a client's threads may have little of it.
pub struct Buffer(*mut u8);

impl Buffer {
    /// Takes one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn take() -> Result<Buffer> {
        for spare in &SPARE {
            let at = spare.swap(null_mut(), Ordering::Acquire);
            if !at.is_null() {
                return Ok(Buffer(at));
            }
        }
        sys::map_private(BUFFER).map(Buffer)
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped with this length, initialized (zeroes at first), and this value is its only user.
        unsafe { core::slice::from_raw_parts_mut(self.0, BUFFER) }
    }

    /// Puts a structure at the beginning.
    pub fn put<T: abi::Words>(&mut self, value: &T) {
        for (to, from) in self.bytes().iter_mut().zip(abi::bytes(value)) {
            *to = *from;
        }
    }

    /// The structure at the beginning.
    pub fn get<T: abi::Words>(&mut self) -> T {
        abi::split(self.bytes()).map_or_else(T::default, |(value, _)| value)
    }

    /// An ioctl with the first `size` bytes.
    ///
    /// # Errors
    /// As [`with`].
    pub fn request(&mut self, fd: i32, number: u32, size: usize) -> Result<usize> {
        if size > LARGEST {
            return Err(Errno::INVAL);
        }
        // SAFETY: the buffer has more bytes than any number can tell.
        unsafe { raw(fd, sized(number, size), self.0) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for spare in &SPARE {
            if spare.compare_exchange(null_mut(), self.0, Ordering::Release, Ordering::Relaxed).is_ok() {
                return;
            }
        }
        // SAFETY: mapped by `take`, and nobody else knows it.
        unsafe { sys::unmap(self.0, BUFFER) };
    }
}

/// Copies from the client, as the kernel would: `EFAULT` for what cannot be read.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn copy_in(from: *const u8, to: &mut [u8]) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    let local = sys::IoVec { base: to.as_mut_ptr(), len: to.len() };
    let remote = sys::IoVec { base: from.cast_mut(), len: to.len() };
    let args = [sys::getpid() as usize, &raw const local as usize, 1, &raw const remote as usize, 1, 0];
    // SAFETY: the kernel checks the client's address; ours is a slice.
    match unsafe { sys::call(Sysno::process_vm_readv, args) } {
        Ok(n) if n == to.len() => Ok(()),
        Ok(_) | Err(Errno::FAULT) => Err(Errno::FAULT),
        // Refused by a sandbox: only what cannot be an address is found out.
        Err(_) if (from as usize) < 1 << 16 => Err(Errno::FAULT),
        Err(_) => {
            // SAFETY: the client's duty, then.
            unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
            Ok(())
        }
    }
}
