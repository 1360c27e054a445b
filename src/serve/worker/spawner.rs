//! The process that makes workers: forked from the daemon before it has threads, so that its children may use everything.
//!
//! It waits for nothing but orders. A child that goes wrong says so on the channel it was given, or closes it by dying.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::unistd::{ForkResult, Pid, fork};

use super::engine::Engine;
use super::enter::{self, Identity, Namespaces};
use super::payer;
use super::wire::{self, Head, Packet, Receiver, op};
use crate::serve::confine;

const CAP_SYS_ADMIN: u32 = 21;

/// The spawner, seen from the daemon. Dropped, it ends, and every worker with it.
pub struct Spawner {
    channel: OwnedFd,
    pid: AtomicI32,
}

impl Spawner {
    /// Forks it. The caller must be the only thread of its process.
    pub fn start() -> io::Result<Spawner> {
        let (front, back) = wire::channel()?;
        // SAFETY: the caller's word: one thread, so the child may go on as it likes.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Spawner { channel: front, pid: AtomicI32::new(child.as_raw()) }),
            ForkResult::Child => {
                drop(front);
                serve(&back);
                exit(0)
            }
        }
    }

    /// Orders a worker. What becomes of it is told on its channel.
    pub fn order(&self, who: &Identity, channel: BorrowedFd<'_>, namespaces: &Namespaces) -> nix::Result<()> {
        let mut fds = vec![channel];
        let mut which = 0;
        // In the order in which the spawner takes them.
        for (fd, bit) in [
            (&namespaces.net, enter::NET),
            (&namespaces.pid, enter::PID),
            (&namespaces.user, enter::USER),
            (&namespaces.cgroup, enter::CGROUP),
        ] {
            if let Some(fd) = fd {
                fds.push(fd.as_fd());
                which |= bit;
            }
        }
        wire::send(self.channel.as_fd(), &Head { op: op::SPAWN, ..Head::default() }, &who.order(which), &fds)
    }

    /// Orders that `len` bytes of a memory are allocated in a control group. What becomes of it is told on the channel, as the
    /// answer to `id`.
    pub fn pay(&self, id: u64, len: u64, fds: &[BorrowedFd<'_>; 3]) -> nix::Result<()> {
        let head = Head { op: op::PAY, id, value: len, ..Head::default() };
        wire::send(self.channel.as_fd(), &head, &[], fds)
    }

    /// Readable when the spawner has ended.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Ends it, and every worker with it.
    pub fn end(&self) {
        // It ends at the end of its channel; its workers die with it.
        let _ = nix::sys::socket::shutdown(self.channel.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let pid = self.pid.swap(0, Ordering::Relaxed);
        if pid != 0 {
            let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends without anything of the daemon's that a normal end would run.
fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

fn name(name: &CStr) {
    // SAFETY: a C string; PR_SET_NAME reads at most 16 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Closes all descriptors but this one: no worker, which may come into its client's hands, has any of the daemon's.
fn close_others(keep: i32) -> io::Result<()> {
    let [first, behind] = [0, keep + 1].map(i32::cast_unsigned);
    let close = |from: u32, to: u32| {
        // SAFETY: numbers only; the descriptors of the daemon are not used here, by nobody.
        let done = from > to || unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } == 0;
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let below = if keep == 0 { Ok(()) } else { close(first, keep.cast_unsigned() - 1) };
    if below.and_then(|()| close(behind, u32::MAX)).is_ok() {
        return Ok(());
    }
    // A kernel or a sandbox without that call.
    close_each(keep)
}

/// The same, one after the other.
fn close_each(keep: i32) -> io::Result<()> {
    // The list's own descriptor is among them, and closed by then.
    let all: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .map(|entry| entry.map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())))
        .collect::<io::Result<Vec<Option<i32>>>>()?
        .into_iter()
        .flatten()
        .collect();
    all.into_iter().filter(|fd| *fd != keep).for_each(nlmmap_ring::sys::close);
    Ok(())
}

/// Leaves what the daemon was started with: its terminal, its descriptors, its signals.
fn settle(channel: &OwnedFd) -> io::Result<()> {
    // A panic here has nobody to tell, and whatever descriptor 2 is must not hear of it.
    std::panic::set_hook(Box::new(|_| {}));
    close_others(channel.as_raw_fd())?;
    // SAFETY: numbers, a C string and a local.
    unsafe {
        libc::setsid();
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        // They are for the daemon, which ends us in order.
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::chdir(c"/".as_ptr());
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        // If the daemon dies where its descriptors do not: never seen, cheap.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
    // Each worker has its own limit of descriptors, and each open file takes one there.
    crate::serve::node::allow_many_descriptors();
    Ok(())
}

fn serve(channel: &OwnedFd) {
    // Without these there are no workers, and the daemon says so and ends.
    if settle(channel).is_err() {
        return;
    }
    name(c"nlmmap-spawner");
    if confine::spawner().is_err() {
        return;
    }
    let mut receiver = Receiver::new();
    loop {
        let mut entry = libc::pollfd { fd: channel.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut entry, 1, -1) };
        match receiver.receive(channel.as_fd()) {
            Ok(Some(packet)) if packet.head.op == op::PAY => pay(channel, packet),
            Ok(Some(packet)) => {
                let order = (packet.head.op == op::SPAWN).then(|| Identity::ordered(&packet.bytes)).flatten();
                let mut fds = packet.fds.into_iter();
                if let (Some((who, which)), Some(worker)) = (order, fds.next()) {
                    let mut take = |bit| if which & bit != 0 { fds.next() } else { None };
                    let namespaces = Namespaces {
                        net: take(enter::NET),
                        pid: take(enter::PID),
                        user: take(enter::USER),
                        cgroup: take(enter::CGROUP),
                    };
                    spawn(channel, &worker, &who, &namespaces);
                }
            }
            Ok(None) => return,
            Err(
                nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::EBADMSG | nix::Error::ENOMEM | nix::Error::ENOBUFS,
            ) => {}
            Err(_) => return,
        }
    }
}

fn failed(channel: &OwnedFd, what: &str, error: &io::Error) -> ! {
    let head = Head { op: op::FAILED, error: error.raw_os_error().unwrap_or(libc::EIO), ..Head::default() };
    let _ = wire::send(channel.as_fd(), &head, format!("{what}: {error}").as_bytes(), &[]);
    exit(1)
}

/// There is no child that could say so.
fn not_forked(channel: &OwnedFd, error: nix::Error) {
    let head = Head { op: op::FAILED, error: error as i32, ..Head::default() };
    let _ = wire::send(channel.as_fd(), &head, format!("fork: {error}").as_bytes(), &[]);
}

/// Forks the child that allocates a ring's memory in a client's control group.
fn pay(ours: &OwnedFd, packet: Packet) {
    let Head { id, value, .. } = packet.head;
    let Ok([channel, group, memory]) = <[OwnedFd; 3]>::try_from(packet.fds) else {
        return;
    };
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => {}
        Err(error) => not_forked(&channel, error),
        Ok(ForkResult::Child) => {
            sys_close(ours);
            name(c"nlmmap-payer");
            payer::pay(&channel, id, value, &group, &memory);
            exit(0)
        }
    }
}

/// Forks the child that enters the namespaces, whose child, in them, is the worker.
fn spawn(ours: &OwnedFd, channel: &OwnedFd, who: &Identity, namespaces: &Namespaces) {
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => {}
        Err(error) => not_forked(channel, error),
        Ok(ForkResult::Child) => {
            sys_close(ours);
            if let Err((what, error)) = enter::before_fork(namespaces) {
                failed(channel, what, &error);
            }
            match fork_sibling() {
                Ok(0) => work(channel, who, namespaces),
                Ok(_) => exit(0),
                Err(error) => failed(channel, "fork in its pid namespace", &error),
            }
        }
    }
}

fn sys_close(fd: &OwnedFd) {
    // The process ends without dropping it.
    nlmmap_ring::sys::close(fd.as_raw_fd());
}

/// A fork whose child is the spawner's, not ours, so that it outlives us and dies with the spawner.
fn fork_sibling() -> io::Result<libc::c_long> {
    // Not clone3: a sandbox that has to see the flags (RestrictNamespaces= of systemd) leaves that one away.
    let flags = libc::CLONE_PARENT as libc::c_long;
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: numbers only, flags and no stack; so the child goes on with a copy of this one, as after fork. The signal of its end
    // is ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, 0, 0, 0) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// The worker's life.
fn work(channel: &OwnedFd, who: &Identity, namespaces: &Namespaces) -> ! {
    name(c"nlmmap-worker");
    // A session of its own: the scheduler may divide time by sessions, and a busy worker shall not have that of others.
    // SAFETY: no arguments.
    unsafe { libc::setsid() };
    // As long as it is root's, nobody who could keep it from that.
    let _ = wire::send(channel.as_fd(), &Head { op: op::HERE, ..Head::default() }, &[], &[]);
    let started = channel.try_clone().and_then(Engine::new);
    let mut engine = started.unwrap_or_else(|error| failed(channel, "starting", &error));
    if let Err((what, error)) = enter::after_fork(who, namespaces.user.as_ref()) {
        failed(channel, what, &error);
    }
    if namespaces.user.is_none() && who.caps >> CAP_SYS_ADMIN & 1 != 0 {
        engine.name_processes_of(who.uids[0], who.gids[0]);
    }
    // What is left in the table: the channel and the epoll descriptor of the engine.
    sys_close(channel);
    for fd in [&namespaces.net, &namespaces.pid, &namespaces.user, &namespaces.cgroup] {
        fd.iter().for_each(sys_close);
    }
    if wire::send_waiting(engine.channel(), &Head { op: op::HELLO, ..Head::default() }, &[], &[]).is_ok() {
        engine.run();
    }
    exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_closed_one_by_one() {
        let (kept, other) = nix::unistd::pipe().unwrap();
        // SAFETY: the child allocates and makes system calls, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let done = close_each(kept.as_raw_fd()).is_ok();
            let is_open = |fd: i32| {
                // SAFETY: numbers.
                unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
            };
            exit(i32::from(!(done && is_open(kept.as_raw_fd()) && !is_open(other.as_raw_fd()))));
        }
        let mut status = 0;
        // SAFETY: a child of ours, and a local.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
    }
}
