//! Whether what a supervisor needs can be had here, tried and not guessed: before each run, and for `nlmmap doctor`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::unistd::{ForkResult, fork, pipe};
use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK, nl_mmap_req};

use super::client::{self, Process};
use super::{Level, Refusal, inject, install, numbers, start};

/// What a supervisor does to its client beside answering calls.
const MEANS: [&str; 3] = ["pidfd_getfd", "process_vm_readv", "ptrace"];

/// Lies at the same address in a fork.
static SAMPLE: AtomicU32 = AtomicU32::new(0x5a);

fn one(means: &str, pid: u32) -> Result<(), Errno> {
    match means {
        "pidfd_getfd" => match Process::open(pid)?.file(0) {
            // Whatever it has there.
            Ok(_) | Err(Errno::EBADF) => Ok(()),
            Err(error) => Err(error),
        },
        "process_vm_readv" => client::read(pid, (&raw const SAMPLE).addr() as u64, size_of_val(&SAMPLE)).map(drop),
        _ => inject::try_out(pid),
    }
}

/// The first of the means that fails on a process of this program's, by its number from 1 on, and why; zeroes if none does.
pub fn reach(pid: u32) -> [u8; 2] {
    let tried = MEANS.iter().zip(1..).map(|(means, number)| (number, one(means, pid)));
    let failed = tried.into_iter().find_map(|(number, result)| Some([number, result.err()? as i32 as u8]));
    failed.unwrap_or_default()
}

/// [`reach`], as it is told.
pub fn understood([number, error]: [u8; 2]) -> Result<(), Refusal> {
    let means = usize::from(number).checked_sub(1).and_then(|index| MEANS.get(index));
    means.map_or(Ok(()), |means| Err(Refusal::Unreachable(means, Errno::from_raw(error.into()))))
}

/// Does something in a child, which becomes what this process shall not, and hands on what it says.
fn in_a_child(work: impl FnOnce() -> String) -> Result<String, Errno> {
    let (read, write) = pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(read);
            let text = work();
            let _ = File::from(write).write_all(text.as_bytes());
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut text = String::new();
            let got = File::from(read).read_to_string(&mut text);
            nix::sys::wait::waitpid(child, None)?;
            got.map(|_| text).map_err(|_| Errno::EIO)
        }
    }
}

/// A refusal with its cures, or nothing, one a line.
fn words(result: Result<(), Refusal>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(refusal) => [vec![refusal.to_string()], refusal.cures()].concat().join("\n"),
    }
}

/// Cause and cures.
pub type Told = (String, Vec<String>);

fn told(text: Result<String, Errno>) -> Result<(), Told> {
    let text = text.unwrap_or_else(|error| words(Err(Refusal::NotStarted(error))));
    let mut lines = text.lines().map(str::to_owned);
    match lines.next() {
        None => Ok(()),
        Some(cause) => Err((cause, lines.collect())),
    }
}

/// Whether a program could be supervised here, all of it: a child becomes one, and has a request acknowledged in its rings.
pub fn whole() -> Result<(), Told> {
    told(in_a_child(|| match start(false, Level::Nothing, None) {
        Ok(()) => {
            dialogue().map_or_else(|(call, error)| format!("supervised, and yet {call}: {error}"), |()| String::new())
        }
        refused => words(refused),
    }))
}

/// Whether calls stop, and descriptors are put where they shall be.
pub fn notification() -> Result<(), Told> {
    told(in_a_child(|| words(numbers().and_then(|numbers| install(&numbers, false)).map(drop))))
}

/// What this process may do to one of its children, each of the means.
pub fn means() -> Vec<(&'static str, Result<(), Errno>)> {
    let tried = pipe().and_then(|(read, write)| {
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(write);
                let _ = File::from(read).read(&mut [0]);
                // SAFETY: as above.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let pid = child.as_raw().cast_unsigned();
                let tried = MEANS.map(|means| (means, one(means, pid)));
                drop(write);
                nix::sys::wait::waitpid(child, None)?;
                Ok(tried.to_vec())
            }
        }
    });
    tried.unwrap_or_else(|error| MEANS.map(|means| (means, Err(error))).to_vec())
}

/// A no-op with its acknowledgement, by frames.
fn dialogue() -> Result<(), (&'static str, Errno)> {
    const VALID: u32 = 2;
    let failed = |call| move |error| (call, error);
    let block = nlmmap_ring::sys::PAGE as u32;
    let shape = nl_mmap_req { nm_block_size: block, nm_block_nr: 1, nm_frame_size: block / 2, nm_frame_nr: 2 };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: numbers only.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) });
    // SAFETY: the kernel has just made it.
    let socket = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).map_err(failed("socket"))?;
    let fd = socket.as_raw_fd();
    for name in [NETLINK_RX_RING, NETLINK_TX_RING] {
        let len = size_of_val(&shape) as u32;
        // SAFETY: a shape and its length.
        let set = unsafe { libc::setsockopt(fd, SOL_NETLINK, name, (&raw const shape).cast(), len) };
        Errno::result(set).map_err(failed("setsockopt"))?;
    }
    let len = 2 * block as usize;
    let base =
        // SAFETY: a new mapping, which is never taken away.
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(("mmap", Errno::last()));
    }
    // SAFETY: within the mapping, aligned, and used as atomics by both sides.
    let word = |at: usize| unsafe { &*base.byte_add(at).cast::<AtomicU32>() };
    let sent = len / 2;
    // `NLMSG_NOOP` with `NLM_F_REQUEST | NLM_F_ACK`.
    let message = [16u32, 1 | 5 << 16, 1, 0];
    message.iter().zip(0..).for_each(|(value, i)| word(sent + 24 + 4 * i).store(*value, Ordering::Relaxed));
    word(sent + 4).store(16, Ordering::Relaxed);
    word(sent).store(VALID, Ordering::Release);
    // SAFETY: no bytes: a kick.
    let kicked = unsafe { libc::send(fd, std::ptr::null(), 0, 0) };
    Errno::result(kicked).map_err(failed("a kick"))?;
    if word(0).load(Ordering::Acquire) == VALID { Ok(()) } else { Err(("the acknowledgement", Errno::ENOMSG)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_and_understood() {
        assert!(understood([0, 0]).is_ok());
        let refusal = understood([1, libc::EPERM as u8]).unwrap_err();
        assert!(refusal.to_string().contains("pidfd_getfd: EPERM"), "{refusal}");
        assert!(!refusal.cures().is_empty());
        let (cause, cures) = told(Ok("a\nb\nc".to_owned())).unwrap_err();
        assert_eq!((cause.as_str(), cures), ("a", vec!["b".to_owned(), "c".to_owned()]));
        assert!(told(Ok(String::new())).is_ok() && told(Err(Errno::EIO)).is_err());
    }
}
