//! A client's memory and descriptors, read and written from outside. Every access may fail. A caller that acts on what it has read
//! looks afterwards whether the client still waits, for a thread's number may be another's once it does not.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nlmmap_ring::sys;

use super::again;

/// No call of a client is given more bytes than this at once.
pub const MOST: usize = 4 << 20;
/// `UIO_MAXIOV`
pub const MOST_VECTORS: usize = 1024;

/// A stretch of a client's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub at: u64,
    pub len: usize,
}

fn vectors(spans: &[Span]) -> Vec<libc::iovec> {
    spans.iter().map(|span| libc::iovec { iov_base: span.at as *mut _, iov_len: span.len }).collect()
}

/// What lies in these stretches, one behind the other. `EFAULT` if not all of it can be read.
pub fn gather(tid: u32, spans: &[Span]) -> Result<Vec<u8>, Errno> {
    let len = spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.len));
    let len = len.filter(|len| *len <= MOST).ok_or(Errno::EMSGSIZE)?;
    let mut bytes = vec![0; len];
    if len == 0 {
        return Ok(bytes);
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let remote = vectors(spans);
    // SAFETY: the local vector is ours; the kernel checks the others.
    let got = unsafe {
        libc::process_vm_readv(tid.cast_signed(), &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
    };
    if got == len as isize { Ok(bytes) } else { Err(failure(got)) }
}

pub fn read(tid: u32, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    gather(tid, &[Span { at, len }])
}

/// Writes to these stretches, one behind the other, as far as there are bytes.
pub fn scatter(tid: u32, spans: &[Span], bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = vectors(spans);
    // SAFETY: the local vector is only read; the kernel checks the others.
    let put = unsafe {
        libc::process_vm_writev(tid.cast_signed(), &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
    };
    if put == bytes.len() as isize { Ok(()) } else { Err(failure(put)) }
}

pub fn write(tid: u32, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    scatter(tid, &[Span { at, len: bytes.len() }], bytes)
}

fn failure(result: isize) -> Errno {
    // A part was there.
    let error = if result < 0 { Errno::last() } else { Errno::EFAULT };
    if error != Errno::EFAULT {
        note_lack(error);
    }
    error
}

thread_local! {
    /// Why something of a client's could not be looked at that is there.
    static LACK: Cell<Option<Errno>> = const { Cell::new(None) };
}

/// See [`take_lack`].
pub fn note_lack(error: Errno) {
    LACK.set(Some(error));
}

/// Why something of a client's could not be looked at since the last time: this process has no descriptor or no memory for it, or may not.
/// What a client has not, or nobody could read, is no such reason.
pub fn take_lack() -> Option<Errno> {
    LACK.take()
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

/// A file of a client's, for a moment: while it is held, the client's last close of it is not the last.
pub struct Held {
    pub fd: OwnedFd,
    /// `SO_COOKIE` of a netlink socket, 0 of any other file.
    pub cookie: u64,
}

impl Process {
    pub fn open(tgid: u32) -> Result<Process, Errno> {
        // SAFETY: numbers only.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, tgid, 0) })?;
        // SAFETY: the kernel has just made it.
        Ok(Process { pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) }, tgid })
    }

    /// The very open file that the client has at this number.
    pub fn file(&self, number: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), number, 0) };
        // SAFETY: the kernel has just made it.
        let file = Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
        // Where this process may not look there are no rings, either.
        file.inspect_err(|error| {
            if !matches!(error, Errno::EBADF | Errno::EPERM | Errno::ESRCH) {
                note_lack(*error);
            }
        })
    }

    /// As [`Self::file`], with its identity.
    pub fn hold(&self, number: i32) -> Result<Held, Errno> {
        let fd = self.file(number)?;
        let cookie = cookie(fd.as_fd()).inspect_err(|error| note_lack(*error))?;
        Ok(Held { fd, cookie })
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether one of these files of ours is mapped in it.
    pub fn maps(&self, inodes: &[u64]) -> io::Result<bool> {
        let maps = match fs::read_to_string(format!("/proc/{}/maps", self.tgid)) {
            // It has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => String::new(),
            maps => maps?,
        };
        let is_ours = |line: &str| {
            let inode = line.split_ascii_whitespace().nth(4).and_then(|inode| inode.parse().ok());
            inode.is_some_and(|inode| inodes.contains(&inode)) && line.contains("/memfd:nlmmap-rings")
        };
        Ok(maps.lines().any(is_ours))
    }
}

/// Of a netlink socket; 0 of any other file.
fn cookie(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let os = |error: nlmmap_ring::Errno| Errno::from_raw(error.0);
    match sys::getsockopt::<i32>(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN).map_err(os) {
        Ok(libc::AF_NETLINK) => sys::cookie(fd.as_raw_fd()).map_err(os),
        Ok(_) | Err(Errno::ENOTSOCK) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The processes that have been seen.
#[derive(Default)]
pub struct Processes {
    by_tgid: HashMap<u32, Process>,
    /// The process of a thread.
    threads: HashMap<u32, u32>,
}

impl Processes {
    /// The process of a thread that waits in a call, and whether it is new here.
    pub fn of(&mut self, tid: u32) -> Result<(&Process, bool), Errno> {
        let known = self.threads.get(&tid).copied().filter(|tgid| is_thread_of(*tgid, tid));
        let tgid = match known {
            Some(tgid) => tgid,
            None => crate::serve::memory::leader(tid)?,
        };
        self.threads.insert(tid, tgid);
        let mut new = false;
        if self.by_tgid.get(&tgid).is_none_or(|process| has_ended(process.pidfd())) {
            self.by_tgid.insert(tgid, Process::open(tgid)?);
            new = true;
        }
        self.by_tgid.get(&tgid).map(|process| (process, new)).ok_or(Errno::ESRCH)
    }

    pub fn get(&self, tgid: u32) -> Option<&Process> {
        self.by_tgid.get(&tgid)
    }

    /// Of one whose end would not be heard of.
    pub fn remove(&mut self, tgid: u32) {
        self.by_tgid.remove(&tgid);
        self.threads.retain(|_, process| *process != tgid);
    }

    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.by_tgid.values()
    }

    /// A process has ended, or its number is another's by now.
    pub fn forget(&mut self, tgid: u32) {
        if self.by_tgid.get(&tgid).is_some_and(|process| has_ended(process.pidfd())) {
            self.remove(tgid);
        }
    }
}

fn is_thread_of(tgid: u32, tid: u32) -> bool {
    // SAFETY: numbers only; signal 0 is none.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, 0) };
    found == 0 || Errno::last() == Errno::EPERM
}

/// Whether no thread has this number.
pub fn has_thread_ended(tid: u32) -> bool {
    // SAFETY: numbers only; signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tkill, tid, 0) < 0 && Errno::last() == Errno::ESRCH }
}

/// Whether a process has ended: its descriptor is readable then.
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, no waiting.
    unsafe { libc::poll(&raw mut entry, 1, 0) == 1 }
}

/// Does something in the network namespace of a thread. The error: it cannot be entered.
pub fn in_network_of<T>(tid: u32, ours: &File, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let theirs = File::open(format!("/proc/{tid}/ns/net"));
    let theirs = theirs.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPERM)))?;
    setns(&theirs, CloneFlags::CLONE_NEWNET)?;
    let done = work();
    // Whatever comes next would be done in the wrong one.
    again::or_abort(|| setns(ours, CloneFlags::CLONE_NEWNET));
    Ok(done)
}

/// Whether a thread and this one are in the same network namespace.
pub fn is_in_our_network(tid: u32) -> bool {
    let of = |task: &str| fs::read_link(format!("/proc/{task}/ns/net")).ok();
    of(&tid.to_string()).is_some_and(|theirs| of("self") == Some(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_where_it_is() {
        let me = nix::unistd::gettid().as_raw().cast_unsigned();
        let mut words = [1u32, 2, 3, 4];
        let at = words.as_mut_ptr() as u64;
        let bytes = gather(me, &[Span { at: at + 8, len: 8 }, Span { at, len: 4 }]).unwrap();
        assert_eq!((word(&bytes, 0), word(&bytes, 2), word(&bytes, 3)), (3, 1, 0));
        scatter(me, &[Span { at: at + 4, len: 4 }, Span { at: at + 12, len: 4 }], &[9; 6]).unwrap();
        // SAFETY: the kernel has written there.
        let words = unsafe { std::ptr::read_volatile(&raw const words) };
        assert_eq!(words, [1, 0x0909_0909, 3, 0x0000_0909]);
        assert_eq!(read(me, 8, 4), Err(Errno::EFAULT));
        assert_eq!(read(me, at, MOST + 1), Err(Errno::EMSGSIZE));
        assert_eq!(write(me, 8, &[1]), Err(Errno::EFAULT));
        // What nobody could read is no lack; a process that is gone is one.
        assert_eq!(take_lack(), None);
        assert_eq!((read(i32::MAX as u32, at, 4), take_lack()), (Err(Errno::ESRCH), Some(Errno::ESRCH)));
        assert_eq!(take_lack(), None);
    }

    #[test]
    fn a_process_is_found_by_its_threads_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut processes = Processes::default();
        let tgid = child.id();
        assert_eq!(processes.of(tgid).map(|(process, new)| (process.tgid, new)), Ok((tgid, true)));
        assert_eq!(processes.of(tgid).map(|(process, new)| (process.tgid, new)), Ok((tgid, false)));
        processes.forget(tgid);
        assert!(processes.get(tgid).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        processes.forget(tgid);
        assert!(processes.get(tgid).is_none() && processes.of(tgid).is_err());
        let me = std::process::id();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tid = nix::unistd::gettid().as_raw().cast_unsigned();
                assert_eq!(processes.of(tid).unwrap().0.tgid, me);
            });
        });
    }
}
