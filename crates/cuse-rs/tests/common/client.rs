//! System calls of clients.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const fn number(dir: u32, nr: u32, size: u32) -> u32 {
    dir << 30 | size << 16 | (b'C' as u32) << 8 | nr
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

pub const BIG: usize = 16383;

pub const CALLER: u32 = number(READ, 1, 12);
pub const ADD_ONE: u32 = number(READ | WRITE, 2, 8);
pub const SLEEP: u32 = number(NONE, 3, 0);
pub const RING: u32 = number(WRITE, 4, 4);
pub const COUNT_AT: u32 = number(NONE, 5, 0);
pub const REVERSE: u32 = number(READ | WRITE, 6, BIG as u32);
pub const FAIL: u32 = number(NONE, 7, 0);
pub const DROP: u32 = number(NONE, 8, 0);
pub const RESULT: u32 = number(NONE, 9, 0);
pub const TOO_LONG: u32 = number(READ, 10, 4);
pub const ON_INTERRUPT: u32 = number(NONE, 11, 0);
pub const UNKNOWN: u32 = number(NONE, 99, 0);

pub fn open(path: &Path) -> File {
    try_open(path, 0).expect("open the node")
}

pub fn try_open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// An ioctl whose argument is a value.
pub fn ioctl(file: &File, cmd: u32, arg: u64) -> io::Result<i32> {
    // SAFETY: numbers without direction carry no memory; the argument is passed as it is.
    let result = unsafe { nix::libc::ioctl(file.as_raw_fd(), u64::from(cmd) as _, arg) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl whose argument is memory.
pub fn ioctl_with<T: Copy>(file: &File, cmd: u32, arg: &mut T) -> io::Result<i32> {
    assert_eq!((cmd >> 16 & 0x3fff) as usize, size_of::<T>());
    // SAFETY: the number encodes the size of T, which is what the kernel copies in or out.
    let result = unsafe { nix::libc::ioctl(file.as_raw_fd(), u64::from(cmd) as _, arg as *mut T) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("an error was due").raw_os_error().expect("a system error")
}

/// Mapped words of a node.
pub struct Mapping {
    address: NonNull<std::ffi::c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, and is only reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn new(file: impl AsFd, len: usize) -> nix::Result<Self> {
        let size = NonZeroUsize::new(len).expect("a length");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is asked for, so no other memory is touched.
        let address = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { address, len })
    }

    pub fn word(&self, index: usize) -> &AtomicU32 {
        assert!((index + 1) * 4 <= self.len);
        // SAFETY: inside the mapping, aligned, and mapped as long as `self` lives.
        unsafe { &*self.address.as_ptr().cast::<AtomicU32>().add(index) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping any more.
        unsafe { munmap(self.address, self.len) }.expect("munmap");
    }
}
