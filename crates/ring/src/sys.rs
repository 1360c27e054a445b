//! Raw system calls: the engine's own work. Nothing of the application's passes through here.
//!
//! One thin function a call, `Result` instead of `errno`. Under miri the numbers answer `ENOSYS`; the engine's tests bring
//! their own [`crate::socket::Socket`].

use crate::errno::{Errno, Result};
/// Named from here by `lock`, whose model brings words of its own.
pub(crate) use core::sync::atomic::AtomicU32;
use linux_raw_sys::general as g;
use syscalls::Sysno;

/// One system call with up to six arguments.
///
/// # Safety
/// The duties of the call itself: pointers valid for what the kernel does with them.
#[inline]
pub unsafe fn call(nr: Sysno, a: [usize; 6]) -> Result<usize> {
    if cfg!(miri) {
        return Err(Errno::NOSYS);
    }
    // SAFETY: the caller's duty; superfluous arguments are ignored by the kernel.
    let ret = unsafe { syscalls::raw::syscall6(nr as usize, a[0], a[1], a[2], a[3], a[4], a[5]) };
    // The kernel answers -4095..=-1 for errors.
    if ret > -4096_isize as usize { Err(Errno(ret.wrapping_neg() as i32)) } else { Ok(ret) }
}

/// `struct iovec`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IoVec {
    /// Address.
    pub base: *mut u8,
    /// Bytes.
    pub len: usize,
}

/// `struct sockaddr_nl`, 12 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SockaddrNl {
    /// `AF_NETLINK`
    pub family: u16,
    /// Unused.
    pub pad: u16,
    /// Port id.
    pub portid: u32,
    /// Mask of groups 1 to 32.
    pub groups: u32,
}

/// `struct msghdr` as the kernel has it (56 bytes).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MsgHdr {
    /// Address of the peer.
    pub name: *mut u8,
    /// Bytes at `name`.
    pub namelen: u32,
    /// Vectors.
    pub iov: *mut IoVec,
    /// How many.
    pub iovlen: usize,
    /// Ancillary data.
    pub control: *mut u8,
    /// Bytes at `control`.
    pub controllen: usize,
    /// What the kernel says of the message.
    pub flags: u32,
}

/// `struct mmsghdr` (64 bytes).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MMsgHdr {
    /// The message.
    pub hdr: MsgHdr,
    /// Bytes moved.
    pub len: u32,
}

const _: () = {
    use linux_raw_sys::net as n;
    assert!(size_of::<MsgHdr>() == size_of::<n::msghdr>());
    assert!(size_of::<MMsgHdr>() == size_of::<n::mmsghdr>());
    assert!(core::mem::offset_of!(MsgHdr, controllen) == core::mem::offset_of!(n::msghdr, msg_controllen));
    assert!(size_of::<IoVec>() == size_of::<g::iovec>());
    assert!(size_of::<SockaddrNl>() == size_of::<linux_raw_sys::netlink::sockaddr_nl>());
};

impl MsgHdr {
    /// A message without anything.
    pub const EMPTY: MsgHdr = MsgHdr {
        name: core::ptr::null_mut(),
        namelen: 0,
        iov: core::ptr::null_mut(),
        iovlen: 0,
        control: core::ptr::null_mut(),
        controllen: 0,
        flags: 0,
    };
}

/// `MSG_OOB`
pub const MSG_OOB: u32 = 0x1;
/// `MSG_PEEK`
pub const MSG_PEEK: u32 = 0x2;
/// `MSG_CTRUNC`
pub const MSG_CTRUNC: u32 = 0x8;
/// `MSG_TRUNC`
pub const MSG_TRUNC: u32 = 0x20;
/// `MSG_DONTWAIT`
pub const MSG_DONTWAIT: u32 = 0x40;
/// `MSG_WAITFORONE`
pub const MSG_WAITFORONE: u32 = 0x10000;
/// `MSG_CMSG_CLOEXEC`
pub const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// `SOL_SOCKET`
pub const SOL_SOCKET: i32 = 1;
/// `AF_NETLINK`
pub const AF_NETLINK: u16 = 16;

/// `getsockopt` of a fixed-size value.
pub fn getsockopt<T: Copy + Default>(fd: i32, level: i32, name: i32) -> Result<T> {
    getsockopt_over(fd, level, name, T::default())
}

/// `getsockopt` over plain words: bytes the kernel does not write stay as they are in `value`.
pub fn getsockopt_over<T: Copy>(fd: i32, level: i32, name: i32, mut value: T) -> Result<T> {
    let mut len = size_of::<T>() as u32;
    // SAFETY: both pointers are to locals of the stated size.
    unsafe {
        let args = [fd as usize, level as usize, name as usize, &raw mut value as usize, &raw mut len as usize, 0];
        call(Sysno::getsockopt, args)?;
    }
    Ok(value)
}

/// `setsockopt` of an `int`.
pub fn setsockopt(fd: i32, level: i32, name: i32, value: i32) -> Result<()> {
    // SAFETY: the pointer is to a local of the stated size.
    unsafe { call(Sysno::setsockopt, [fd as usize, level as usize, name as usize, &raw const value as usize, 4, 0]) }?;
    Ok(())
}

/// `SO_COOKIE`: the socket's identity, the same for every duplicate, never reused.
pub fn cookie(fd: i32) -> Result<u64> {
    getsockopt::<u64>(fd, SOL_SOCKET, linux_raw_sys::net::SO_COOKIE as i32)
}

/// The page size of the supported machines.
pub const PAGE: usize = 4096;

/// Bytes rounded up to whole pages.
pub const fn pages(len: usize) -> usize {
    len.saturating_add(PAGE - 1) & !(PAGE - 1)
}

#[cfg(any(miri, feature = "heap"))]
mod heap;
#[cfg(any(miri, feature = "heap"))]
use heap::map;
#[cfg(any(miri, feature = "heap"))]
pub use heap::unmap;
/// Whether the engine's memory is the allocator's, which cannot be mapped again.
pub(crate) const ON_HEAP: bool = cfg!(any(miri, feature = "heap"));

#[cfg(not(any(miri, feature = "heap")))]
fn map(len: usize, prot: u32, flags: u32) -> Result<*mut u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { call(Sysno::mmap, [0, len, prot as usize, flags as usize, usize::MAX, 0]) }?;
    Ok(at as *mut u8)
}

/// Zeroed anonymous memory that a fork shares.
pub fn map_shared(len: usize) -> Result<*mut u8> {
    map(len, g::PROT_READ | g::PROT_WRITE, g::MAP_SHARED | g::MAP_ANONYMOUS)
}

/// Zeroed anonymous memory of this process; pages appear when touched.
pub fn map_private(len: usize) -> Result<*mut u8> {
    map(len, g::PROT_READ | g::PROT_WRITE, g::MAP_PRIVATE | g::MAP_ANONYMOUS | g::MAP_NORESERVE)
}

/// Address space without memory.
pub fn map_nothing(len: usize) -> Result<*mut u8> {
    map(len, g::PROT_NONE, g::MAP_PRIVATE | g::MAP_ANONYMOUS | g::MAP_NORESERVE)
}

/// Unmaps what one of the functions above mapped.
///
/// # Safety
/// Nothing uses the range any more.
#[cfg(not(any(miri, feature = "heap")))]
pub unsafe fn unmap(at: *mut u8, len: usize) {
    // SAFETY: the caller's duty. An error leaves the range mapped, which harms nobody.
    let _ = unsafe { call(Sysno::munmap, [at as usize, len, 0, 0, 0, 0]) };
}

/// Maps shared memory a second time, at `to`, replacing what is mapped there (`mremap` with an old length of 0).
///
/// # Safety
/// `from` lies in a mapping of [`map_shared`]; `to` for `len` bytes belongs to the caller.
pub unsafe fn map_again_at(from: *mut u8, len: usize, to: *mut u8) -> Result<()> {
    let flags = (g::MREMAP_MAYMOVE | g::MREMAP_FIXED) as usize;
    // SAFETY: the caller's duty.
    unsafe { call(Sysno::mremap, [from as usize, 0, len, flags, to as usize, 0]) }?;
    Ok(())
}

/// A sealed memfd of `len` zeroed bytes.
pub fn memfd(len: usize) -> Result<i32> {
    // SAFETY: a C string; MFD_CLOEXEC | MFD_ALLOW_SEALING.
    let fd = unsafe { call(Sysno::memfd_create, [c"nlmmap".as_ptr() as usize, 3, 0, 0, 0, 0]) }? as i32;
    // F_ADD_SEALS: F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW.
    // SAFETY: numbers only.
    let sized = unsafe {
        call(Sysno::ftruncate, [fd as usize, len, 0, 0, 0, 0])
            .and_then(|_| call(Sysno::fcntl, [fd as usize, 1033, 7, 0, 0, 0]))
    };
    sized.map(|_| fd).inspect_err(|_| close(fd))
}

/// Maps all of a memfd, shared.
pub fn map_fd(fd: i32, len: usize) -> Result<*mut u8> {
    map_fd_from(fd, len, 0)
}

/// Maps a part of a file, shared.
pub fn map_fd_from(fd: i32, len: usize, offset: usize) -> Result<*mut u8> {
    let prot = (g::PROT_READ | g::PROT_WRITE) as usize;
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { call(Sysno::mmap, [0, len, prot, g::MAP_SHARED as usize, fd as usize, offset]) }?;
    Ok(at as *mut u8)
}

/// Maps all of a memfd at `to`, replacing what is mapped there.
///
/// # Safety
/// `to` for `len` bytes belongs to the caller.
pub unsafe fn map_fd_at(fd: i32, len: usize, to: *mut u8) -> Result<()> {
    let (prot, flags) = ((g::PROT_READ | g::PROT_WRITE) as usize, (g::MAP_SHARED | g::MAP_FIXED) as usize);
    // SAFETY: the caller's duty.
    unsafe { call(Sysno::mmap, [to as usize, len, prot, flags, fd as usize, 0]) }?;
    Ok(())
}

/// `mprotect`
///
/// # Safety
/// The range belongs to the caller, and nothing relies on the rights taken away.
pub unsafe fn protect(at: *mut u8, len: usize, prot: u32) -> Result<()> {
    // SAFETY: the caller's duty.
    unsafe { call(Sysno::mprotect, [at as usize, len, prot as usize, 0, 0, 0]) }?;
    Ok(())
}

/// `madvise`
///
/// # Safety
/// The range belongs to the caller and the advice does not take away what somebody reads.
pub unsafe fn advise(at: *mut u8, len: usize, advice: u32) -> Result<()> {
    // SAFETY: the caller's duty.
    unsafe { call(Sysno::madvise, [at as usize, len, advice as usize, 0, 0, 0]) }?;
    Ok(())
}

/// Sleeps while `*word == value`, at most `millis`. Returns on wake, change, signal or time-out alike.
pub fn futex_wait(word: &AtomicU32, value: u32, millis: u64) {
    let limit = [millis / 1000, (millis % 1000) * 1_000_000];
    // SAFETY: the word and the time are valid for the call. FUTEX_WAIT (0) without PRIVATE: the word may be shared by fork.
    let _ = unsafe { call(Sysno::futex, [word.as_ptr() as usize, 0, value as usize, limit.as_ptr() as usize, 0, 0]) };
}

/// Wakes up to `count` sleepers on `word`.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: FUTEX_WAKE (1) takes an address and a number.
    let _ = unsafe { call(Sysno::futex, [word.as_ptr() as usize, 1, count as usize, 0, 0, 0]) };
}

/// A set of blocked signals to return to.
#[derive(Clone, Copy, Debug)]
pub struct SignalMask(u64);

impl SignalMask {
    /// Signal `n` is bit `n - 1`.
    pub fn bits(self) -> u64 {
        self.0
    }
}

/// Blocks every signal of this thread.
#[inline]
pub fn block_signals() -> SignalMask {
    block(u64::MAX)
}

/// Blocks every signal but 32 to 34, by which C libraries make all threads change their credentials.
pub fn block_ordinary_signals() -> SignalMask {
    block(!(0b111 << 31))
}

#[inline]
fn block(all: u64) -> SignalMask {
    let mut old = 0u64;
    // SAFETY: both sets are locals of the kernel's size (8). SIG_BLOCK is 0.
    let _ = unsafe { call(Sysno::rt_sigprocmask, [0, &raw const all as usize, &raw mut old as usize, 8, 0, 0]) };
    SignalMask(old)
}

/// Goes back to an earlier set.
#[inline]
pub fn restore_signals(mask: SignalMask) {
    // SAFETY: the set is a local. SIG_SETMASK is 2.
    let _ = unsafe { call(Sysno::rt_sigprocmask, [2, &raw const mask.0 as usize, 0, 8, 0, 0]) };
}

/// `getpid`
pub fn getpid() -> u32 {
    // SAFETY: no arguments.
    unsafe { call(Sysno::getpid, [0; 6]) }.unwrap_or(0) as u32
}

/// `close`
pub fn close(fd: i32) {
    // SAFETY: takes a number; the caller owns it.
    let _ = unsafe { call(Sysno::close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Whether a process, or a thread, has ended (a zombie has). Unsure means no, which is what the kernel says of a thread that is there.
pub fn is_dead(pid: u32) -> bool {
    // SAFETY: numbers only.
    match unsafe { call(Sysno::pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) } {
        Err(e) => e == Errno::SRCH,
        Ok(fd) => {
            let fd = fd as i32;
            let dead = matches!(poll_in(fd, 0), Ok(true));
            close(fd);
            dead
        }
    }
}

/// Polls one fd for `POLLIN`; a negative time waits for ever.
pub fn poll_in(fd: i32, millis: i32) -> Result<bool> {
    let mut entry = g::pollfd { fd, events: 1, revents: 0 };
    let time = [(millis / 1000) as i64, i64::from(millis % 1000) * 1_000_000];
    let limit = if millis < 0 { 0 } else { time.as_ptr() as usize };
    // SAFETY: one pollfd and an optional timespec, both locals; no signal set.
    let n = unsafe { call(Sysno::ppoll, [&raw mut entry as usize, 1, limit, 0, 8, 0]) }?;
    Ok(n > 0)
}

/// Whether a pointer can be the address of memory: not below `mmap_min_addr`, nor beyond the user's half.
#[inline]
pub fn is_plausible(at: *const u8) -> bool {
    const LOW: usize = 1 << 16;
    const HIGH: usize = 1 << 47;
    (LOW..HIGH).contains(&(at as usize))
}

/// Copies to an address of the client's. What cannot be an address of memory answers `EFAULT`, as the kernel would; a wild
/// pointer elsewhere faults, as it does in any library.
///
/// # Safety
/// What is writable there is the client's to lose.
pub unsafe fn copy_out(from: &[u8], to: *mut u8) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    if !is_plausible(to) {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller's duty.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    Ok(())
}

/// `gettid`
pub fn gettid() -> u32 {
    // SAFETY: no arguments.
    unsafe { call(Sysno::gettid, [0; 6]) }.unwrap_or(0) as u32
}

/// Sleeps for `nanos` (less than a second), or until a signal.
pub fn nap(nanos: u64) {
    let time = [0u64, nanos];
    // SAFETY: one timespec, a local.
    let _ = unsafe { call(Sysno::nanosleep, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// The processor's time stamp: cheap, and good for "about a millisecond ago".
#[inline]
pub fn ticks() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: reads a counter.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    now()
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now() -> u64 {
    let mut time = [0i64; 2];
    let args = [1, time.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the kernel writes one timespec to a local.
    if unsafe { call(Sysno::clock_gettime, args) }.is_err() {
        // 0 in place of one of the times that make a limit would be a wait for as long as the machine is up. Where a sandbox refuses
        // the clock for good it stands still, and limits are those of single sleeps.
        // SAFETY: as above.
        let _ = unsafe { call(Sysno::clock_gettime, args) };
    }
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// `CLOCK_REALTIME` in nanoseconds.
pub fn wall_clock() -> u64 {
    let mut time = [0i64; 2];
    // SAFETY: the kernel writes one timespec to a local.
    let _ = unsafe { call(Sysno::clock_gettime, [0, time.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    (time[0] as u64).wrapping_mul(1_000_000_000).wrapping_add(time[1] as u64)
}

/// Bytes of memory of this machine (`sysinfo`), 0 when unknown.
pub fn total_memory() -> u64 {
    let mut info: core::mem::MaybeUninit<linux_raw_sys::system::sysinfo> = core::mem::MaybeUninit::zeroed();
    // SAFETY: the kernel fills one sysinfo.
    if unsafe { call(Sysno::sysinfo, [info.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) }.is_err() {
        return 0;
    }
    // SAFETY: plain integers, zeroed before the call.
    let info = unsafe { info.assume_init() };
    info.totalram.saturating_mul(u64::from(info.mem_unit.max(1)))
}

/// Whether a short write would not have to wait.
pub fn can_write(fd: i32) -> bool {
    let mut entry = g::pollfd { fd, events: 4, revents: 0 };
    let time = [0i64; 2];
    // SAFETY: one pollfd and a timespec, both locals; no signal set.
    let n = unsafe { call(Sysno::ppoll, [&raw mut entry as usize, 1, time.as_ptr() as usize, 0, 8, 0]) };
    n.is_ok_and(|n| n > 0)
}

/// `write` of a whole line, as far as it goes in one call.
pub fn write_once(fd: i32, text: &[u8]) {
    // SAFETY: the slice is readable for its length.
    let _ = unsafe { call(Sysno::write, [fd as usize, text.as_ptr() as usize, text.len(), 0, 0, 0]) };
}
