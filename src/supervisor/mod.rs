//! Rings for programs that no preload can enter: their system calls on sockets with rings stop, and a process beside them answers
//! (docs/supervisor.md).
//!
//! | module | promise |
//! | --- | --- |
//! | [`filter`] | which calls stop |
//! | [`notify`] | stopped calls, and their answers |
//! | [`client`] | a client's memory and descriptors, from outside |
//! | [`engine`] | the supervisor's loop |
//! | [`calls`], [`send`], [`receive`], [`wait`] | what each call comes to |
//! | [`signals`] | what interrupts a call that waits |
//! | [`ring`] | a socket with rings |
//! | [`standin`] | what `epoll` waits for in place of it |
//! | [`rights`] | a client's rights, where they are not the supervisor's |
//! | [`mapping`], [`inject`] | mapping the rings into a client |
//! | [`guardian`] | what happens when it is killed |
//! | [`descriptors`] | which descriptors a process has, and keeps |
//! | [`again`] | what has to be done |
//! | [`shown`] | its page, for those who look |
//! | [`trial`] | whether all that can be had here |
//! | [`log`] | what it says |

mod again;
mod calls;
mod client;
mod descriptors;
mod engine;
mod filter;
mod guardian;
mod inject;
mod log;
mod mapping;
mod notify;
mod receive;
mod rights;
mod ring;
mod send;
mod shown;
mod signals;
mod standin;
pub mod trial;
mod wait;

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::unistd::{ForkResult, fork, read, setsid, write};

use engine::Supervisor;
pub use log::Level;
use log::Log;
use notify::Listener;
pub use notify::{Grip, is_at_least};
use shown::Shown;

/// `FD_SETSIZE`: a number from here on cannot be waited for with `select`.
const MOST: u64 = 1024;
/// With fewer descriptors than this a program keeps them all.
const FEWEST: u64 = 64;

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the kernel has no SECCOMP_RET_USER_NOTIF with descriptors (Linux 5.9)")]
    OldKernel,
    #[error("this process is supervised already, and the kernel allows one supervisor")]
    Nested,
    #[error("a seccomp filter cannot be set: {0}")]
    Denied(Errno),
    #[error("the kernel lets no process reach into another here: {0}: {1}")]
    Unreachable(&'static str, Errno),
    #[error("the limit of open files ({0}) leaves no numbers for sockets with rings")]
    FewDescriptors(u64),
    #[error("the supervisor did not start: {0}")]
    NotStarted(Errno),
}

impl Refusal {
    pub fn cures(&self) -> Vec<String> {
        let cures: &[&str] = match self {
            Refusal::OldKernel => &["run it on Linux 5.9 or later"],
            Refusal::Nested => &["start the inner program as it is: the outer supervisor serves it"],
            Refusal::Denied(_) => &[
                "look for a sandbox that forbids seccomp(2), as some containers do",
                "or link the program dynamically, and use the preload",
            ],
            Refusal::Unreachable("ptrace", Errno::EPERM) => &[
                "if it runs under strace or gdb: trace less, for a thread has one tracer",
                "allow ptrace in the sandbox (docker run --cap-add SYS_PTRACE), or lower kernel.yama.ptrace_scope to 1",
            ],
            Refusal::Unreachable(..) => &[
                "allow pidfd_open, pidfd_getfd, process_vm_readv and ptrace in the sandbox (docker run --cap-add SYS_PTRACE)",
                "start nlmmap with equal real and effective ids",
            ],
            Refusal::FewDescriptors(_) => &["ulimit -n 1024"],
            Refusal::NotStarted(_) => &["look at the limits of processes, memory and open files"],
        };
        cures.iter().map(|&cure| cure.to_owned()).collect()
    }
}

/// The numbers of sockets that may have rings: the last quarter of those that `select` knows.
fn numbers() -> Result<Range<u32>, Refusal> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Refusal::NotStarted)?;
    let end = limit.min(MOST);
    if end < FEWEST { Err(Refusal::FewDescriptors(limit)) } else { Ok((end - end / 4) as u32..end as u32) }
}

/// Puts this process under a supervisor, which it starts: a grandchild in a session of its own. From here on the process, and
/// whatever it starts, has the filter, and gains no rights by executing files (`no_new_privs`).
///
/// This process must have one thread. `summary`: where its sockets are added up.
pub fn start(strict: bool, level: Level, summary: Option<&Path>) -> Result<(), Refusal> {
    let failed = Refusal::NotStarted;
    let numbers = numbers()?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(failed)?;
    let client = std::process::id();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            drop(ours);
            // Not this process's child: nobody waits for it, and no `wait` of the program's finds it.
            // SAFETY: as above.
            if let Ok(ForkResult::Child) = unsafe { fork() } {
                supervise(theirs, client, numbers, strict, Log(level), Shown::find(summary));
            }
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            again::reap(child);
        }
    }
    // The supervisor says who it is; looks whether it can do its work; is given the listener; and says that it listens.
    let mut pid = [0u8; 4];
    if read(&ours, &mut pid).map_err(failed)? != pid.len() {
        return Err(failed(Errno::ECHILD));
    }
    // Where yama restricts tracing; elsewhere it is not known.
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_ulong::from(u32::from_ne_bytes(pid)), 0, 0, 0) };
    if write(&ours, &[0]).map_err(failed)? != 1 {
        return Err(failed(Errno::ECHILD));
    }
    let mut reach = [0u8; 2];
    if read(&ours, &mut reach).map_err(failed)? != reach.len() {
        return Err(failed(Errno::ECHILD));
    }
    trial::understood(reach)?;
    let listener = install(&numbers, has_rights())?;
    let number = [listener.as_fd().as_raw_fd()];
    let sent = [ControlMessage::ScmRights(&number)];
    sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&[0])], &sent, MsgFlags::MSG_NOSIGNAL, None).map_err(failed)?;
    drop(listener);
    if read(&ours, &mut pid[..1]).map_err(failed)? != 1 {
        return Err(failed(Errno::ECHILD));
    }
    Ok(())
}

/// Whether this process may do anything that a program could give up again.
fn has_rights() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let none = |name: &str| {
        let set = status.lines().find_map(|line| line.strip_prefix(name));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) == Some(0)
    };
    !none("CapEff:") || !none("CapPrm:")
}

/// Installs the filter.
fn install(numbers: &Range<u32>, watch_rights: bool) -> Result<Listener, Refusal> {
    let mut filter = filter::build(numbers, watch_rights);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map_err(Refusal::Denied)?;
    let grip = Grip::here();
    let fd =
        // SAFETY: the program leads to the filter, which the kernel copies.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, grip.flags(), &raw const program) };
    match Errno::result(fd) {
        Ok(fd) => {
            // SAFETY: the kernel has just made it.
            let listener = Listener::new(unsafe { OwnedFd::from_raw_fd(fd as i32) }, grip);
            // Whoever stops nevertheless, without a listener, is told `ENOSYS`.
            if listener.puts_descriptors() { Ok(listener) } else { Err(Refusal::OldKernel) }
        }
        Err(Errno::EBUSY) => Err(Refusal::Nested),
        Err(Errno::EINVAL | Errno::ENOSYS) => Err(Refusal::OldKernel),
        Err(error) => Err(Refusal::Denied(error)),
    }
}

/// The supervisor's life.
fn supervise(channel: OwnedFd, client: u32, numbers: Range<u32>, strict: bool, log: Log, shown: Option<Shown>) {
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGTSTP] {
        // A terminal's and a service manager's words are for the program; this ends with it.
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    if !descriptors::keep_only(channel.as_raw_fd(), log.0 != Level::Nothing) {
        return;
    }
    // Who waits for it in vain is told by the end of this.
    if write(&channel, &std::process::id().to_ne_bytes()) != Ok(size_of::<u32>()) {
        return;
    }
    // It has made itself known to yama.
    let mut byte = [0u8];
    if read(&channel, &mut byte) != Ok(1) || write(&channel, &trial::reach(client)).is_err() {
        return;
    }
    let Some(listener) = take_listener(&channel) else { return };
    let numbers = numbers.start.cast_signed()..numbers.end.cast_signed();
    if let Ok(supervisor) = Supervisor::new(Listener::new(listener, Grip::here()), numbers, strict, log, shown)
        && guardian::start().is_ok()
        && write(&channel, &[0]) == Ok(1)
    {
        drop(channel);
        supervisor.run();
    }
}

fn take_listener(channel: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0u8];
    let mut room = cmsg_space!([i32; 1]);
    let mut vectors = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut vectors, Some(&mut room), flags).ok()?;
    message.cmsgs().ok()?.find_map(|message| match message {
        // SAFETY: the kernel has just made it.
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }),
        _ => None,
    })
}
