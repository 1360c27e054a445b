//! A client's memory and descriptors, read and written from outside. Every access may fail; a caller looks afterwards whether
//! the client still waits, for a thread's number may be another's once it does not.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// No call of a client is given more bytes than this at once.
pub const MOST: usize = 4 << 20;

pub fn read_bytes(tid: u32, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    if len > MOST {
        return Err(Errno::EMSGSIZE);
    }
    let mut bytes = vec![0; len];
    if len == 0 {
        return Ok(bytes);
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: at as *mut _, iov_len: len };
    // SAFETY: the local vector is ours; the kernel checks the other.
    let got = unsafe { libc::process_vm_readv(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if got == len as isize { Ok(bytes) } else { Err(failure(got)) }
}

pub fn write_bytes(tid: u32, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: at as *mut _, iov_len: bytes.len() };
    // SAFETY: the local vector is only read; the kernel checks the other.
    let put = unsafe { libc::process_vm_writev(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if put == bytes.len() as isize { Ok(()) } else { Err(failure(put)) }
}

fn failure(result: isize) -> Errno {
    // A part was readable.
    if result < 0 { Errno::last() } else { Errno::EFAULT }
}

/// A 32-bit word of some bytes; 0 behind their end.
pub fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.get(index * 4..index * 4 + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// As [`word`], of 64 bits.
pub fn long(bytes: &[u8], index: usize) -> u64 {
    bytes.get(index * 8..index * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// A process that has stopped calls, kept by a descriptor that cannot come to mean another.
pub struct Process {
    pidfd: OwnedFd,
    pub tgid: u32,
}

impl Process {
    pub fn of(tid: u32) -> Result<Process, Errno> {
        let tgid = crate::serve::leader(tid)?;
        // SAFETY: numbers only.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, tgid, 0) })?;
        // SAFETY: the kernel has just made it.
        Ok(Process { pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) }, tgid })
    }

    /// The very open file that the client has at this number.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), number, 0) };
        // SAFETY: the kernel has just made it.
        Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    pub fn is_cloexec(&self, number: i32) -> bool {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.tgid)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).is_some_and(|f| f & libc::O_CLOEXEC as u32 != 0)
    }
}

/// User, groups and capabilities of a thread, as the kernel tells them.
pub fn rights(task: &str) -> Option<Vec<String>> {
    let status = fs::read_to_string(format!("/proc/{task}/status")).ok()?;
    let told = |line: &&str| ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|name| line.starts_with(name));
    Some(status.lines().filter(told).map(str::to_owned).collect())
}
