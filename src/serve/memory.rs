//! The file that both rings of an open file lie in: made here (FUSE), or given by the client (CUSE). And the state beside them.

use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cuse_rs::Errno;
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno as Os;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::SHARED_LEN;
use nlmmap_ring::sys::PAGE;

/// `PIDFD_THREAD` of Linux 6.9.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

pub fn errno(error: Os) -> Errno {
    Errno::new(error as i32)
}

/// From now on this process, and those that it makes, have small pages. What an open file keeps is little here and there, of each of which
/// a machine that gives large pages unasked (`transparent_hugepage` `always`) would make 2 MiB.
pub fn use_small_pages() {
    // SAFETY: numbers only. Where the kernel does not know it, pages are as they are.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// An empty memfd that can be sealed.
pub fn new() -> Result<OwnedFd, Os> {
    let name = CString::new("nlmmap-rings").unwrap_or_default();
    memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
}

/// Makes the first `len` bytes of the file a place for rings: what rings have written there, `used`, is zeroes after that. All
/// pages are allocated, so that the pump cannot run into a full memory later, as a signal. Those that are there stay, since somebody
/// else may have been charged for them.
pub fn resize(memory: &OwnedFd, used: Range<usize>, len: usize) -> Result<(), Os> {
    reserve(memory, len)?;
    let file = std::fs::File::from(memory.try_clone().map_err(|_| Os::EMFILE)?);
    let (zeroes, mut at) = ([0; 16 * PAGE], used.start);
    while at < used.end.min(len) {
        let part = zeroes.get(..(used.end.min(len) - at).min(zeroes.len())).unwrap_or_default();
        file.write_all_at(part, at as u64).map_err(|error| error.raw_os_error().map_or(Os::EIO, Os::from_raw))?;
        at += part.len();
    }
    Ok(())
}

/// Gives back what lies behind the first `len` bytes. Nobody may have mapped it.
pub fn trim(memory: &OwnedFd, len: usize) {
    if nix::sys::stat::fstat(memory).is_ok_and(|there| there.st_size > len as i64) {
        // Refused where it has been sealed, and then it is as long as it may be.
        let _ = ftruncate(memory, len as i64);
    }
}

/// Allocates all pages, and makes the file longer where it ends before.
pub fn reserve(memory: &OwnedFd, len: usize) -> Result<(), Os> {
    if len == 0 {
        return Ok(());
    }
    match fallocate(memory, FallocateFlags::empty(), 0, len as i64) {
        // The ABI's word for it.
        Err(Os::ENOSPC) => Err(Os::ENOMEM),
        done => done,
    }
}

/// The word at that place, if there is one.
pub fn word(memory: &OwnedFd, at: usize) -> Option<u32> {
    let mut word = [0; 4];
    let got = nix::sys::uio::pread(memory, &mut word, at as i64);
    (got == Ok(word.len())).then(|| u32::from_ne_bytes(word))
}

/// Copies the first `len` bytes.
pub fn copy(from: &OwnedFd, to: &OwnedFd, len: usize) -> Result<(), Errno> {
    let (from, to) = (std::fs::File::from(from.try_clone()?), std::fs::File::from(to.try_clone()?));
    let mut piece = vec![0; 64 * PAGE];
    let mut at = 0;
    while at < len {
        let part = piece.get_mut(..(len - at).min(64 * PAGE)).unwrap_or_default();
        from.read_exact_at(part, at as u64)?;
        to.write_all_at(part, at as u64)?;
        at += part.len();
    }
    Ok(())
}

/// From now on the file keeps its size.
pub fn seal(memory: &OwnedFd) -> Result<(), Os> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(memory, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

/// From now on the file is so long, and no longer: rings that are still being allocated are not in it.
pub fn seal_at(memory: &OwnedFd, len: usize) -> Result<(), Os> {
    fcntl(memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW))?;
    trim(memory, len);
    seal(memory)
}

/// An endpoint's shared state, of which this process has the first page: counters and positions, for people, and the notes of waits
/// that it answers by itself.
pub struct Shared {
    memory: Arc<OwnedFd>,
    page: MmapRaw,
}

impl Shared {
    /// Zeroed state of a fixed size.
    pub fn new() -> Result<Shared, Os> {
        let memory = new()?;
        ftruncate(&memory, SHARED_LEN as i64)?;
        // Whoever is given it cannot make us fault by making it shorter.
        seal(&memory)?;
        let page = MmapOptions::new().len(PAGE).map_raw(&memory);
        let page = page.map_err(|error| error.raw_os_error().map_or(Os::ENOMEM, Os::from_raw))?;
        Ok(Shared { memory: Arc::new(memory), page })
    }

    pub fn memory(&self) -> &Arc<OwnedFd> {
        &self.memory
    }

    pub fn control(&self) -> &Control {
        // SAFETY: a page-aligned live mapping of a page that stays (`seal`), unmapped when this is dropped; any bytes are a
        // Control, which is atomics only.
        unsafe { &*self.page.as_ptr().cast() }
    }
}

/// Takes descriptor `number` of thread `tid`, which waits for our answer, and judges it: a memfd of `len` bytes that the
/// client can write, and can never make shorter.
pub fn take(tid: u32, number: i32, len: usize) -> Result<OwnedFd, Errno> {
    let memory = take_descriptor(tid, number)?;
    judge(&memory, len)?;
    Ok(memory)
}

/// Whether this is a memfd of `len` bytes that can be written, and never be made shorter.
pub fn judge(memory: &OwnedFd, len: usize) -> Result<(), Errno> {
    let stat = nix::sys::stat::fstat(memory).map_err(errno)?;
    let kind = fstatfs(memory).map_err(errno)?.filesystem_type();
    let flags = fcntl(memory, FcntlArg::F_GETFL).map_err(errno)?;
    let seals = fcntl(memory, FcntlArg::F_GET_SEALS).map_err(errno)?;
    let writable = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDWR;
    let sealed = SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK);
    if kind != TMPFS_MAGIC || stat.st_size != len as i64 || !sealed {
        return Err(Errno::EINVAL);
    }
    if writable { Ok(()) } else { Err(Errno::EACCES) }
}

/// `pidfd_getfd`: the very open file of the client, with its access mode, not a new one with ours.
fn take_descriptor(tid: u32, number: i32) -> Result<OwnedFd, Errno> {
    let open = |id: u32, flags: libc::c_uint| {
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) };
        // SAFETY: the kernel has just made it, and nobody else owns it.
        Os::result(fd as i32).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // A thread may have descriptors of its own; kernels before 6.9 know processes only.
    let process = open(tid, PIDFD_THREAD).or_else(|_| open(tid, 0)).or_else(|_| open(leader(tid)?, 0));
    let process = process.map_err(errno)?;
    // SAFETY: numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), number, 0) };
    let fd = Os::result(fd as i32).map_err(errno)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process of a thread.
pub fn leader(tid: u32) -> Result<u32, Os> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Os::ESRCH)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|pid| pid.trim().parse().ok()).ok_or(Os::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_keeps_its_size_is_taken() {
        let me = nix::unistd::gettid().as_raw().cast_unsigned();
        let take = |fd: &OwnedFd, len| super::take(me, fd.as_raw_fd(), len).map(drop);
        let memory = new().unwrap();
        resize(&memory, 0..0, 8192).unwrap();
        assert_eq!(take(&memory, 8192), Err(Errno::EINVAL), "not sealed");
        seal(&memory).unwrap();
        assert_eq!(take(&memory, 8192), Ok(()));
        assert_eq!(take(&memory, 4096), Err(Errno::EINVAL), "another size");
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let reader = OwnedFd::from(std::fs::File::open(path).unwrap());
        assert_eq!(take(&reader, 8192), Err(Errno::EACCES), "read only");
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(take(&null, 0).is_err());
        assert_eq!(super::take(me, -1, 8192).err(), Some(Errno::EBADF));
        assert_eq!(ftruncate(&memory, 0), Err(Os::EPERM));
    }

    #[test]
    fn rings_find_zeroes_and_pages_that_are_there_stay() {
        let memory = new().unwrap();
        let file = std::fs::File::from(memory.try_clone().unwrap());
        reserve(&memory, 3 * PAGE).unwrap();
        file.write_all_at(&[7; 3 * PAGE], 0).unwrap();
        resize(&memory, PAGE..2 * PAGE, 2 * PAGE).unwrap();
        let bytes = std::fs::read(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        let parts: Vec<bool> = bytes.chunks(PAGE).map(|page| page.iter().all(|byte| *byte == 0)).collect();
        assert_eq!(parts, [false, true, false]);
        resize(&memory, 0..usize::MAX, 40 * PAGE).unwrap();
        let there = file.metadata().unwrap();
        assert_eq!((there.len(), std::os::unix::fs::MetadataExt::blocks(&there)), (40 * PAGE as u64, 40 * 8));
        trim(&memory, 50 * PAGE);
        assert_eq!(file.metadata().unwrap().len(), 40 * PAGE as u64);
        seal_at(&memory, 2 * PAGE).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 * PAGE as u64);
        assert_eq!(reserve(&memory, 3 * PAGE), Err(Os::EPERM));
        trim(&memory, 0);
        assert_eq!(file.metadata().unwrap().len(), 2 * PAGE as u64);
    }
}
