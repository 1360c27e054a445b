//! What is left when the supervisor is killed: a process with the same descriptors, which sleeps until then.
//!
//! With the listener the kernel ends the calls that have stopped, and every later one, with `ENOSYS`. But a wait of the kernel's own
//! (`epoll_wait`) would sleep on what nobody writes to any more, or not be there any more. So the guardian makes what stands for
//! sockets in epoll sets readable, and keeps it so as long as its clients live: they wake, call, and are told.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::descriptors;

/// Between two tries of a wait that has failed.
const NAP: Duration = Duration::from_millis(1);

/// Starts it, from the supervisor's one thread.
pub fn start() -> Result<(), Errno> {
    // SAFETY: numbers only.
    let own = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) })?;
    // SAFETY: the kernel has just made it.
    let supervisor = unsafe { OwnedFd::from_raw_fd(own as i32) };
    // As fork, but for the table of descriptors: both have all that either makes.
    // SAFETY: this process has one thread, and the child gets a copy of its memory and stack.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
    if Errno::result(child)? != 0 {
        // It stays in the table, for the child.
        std::mem::forget(supervisor);
        return Ok(());
    }
    wait_for(&[supervisor.as_raw_fd()]);
    conclude();
    // SAFETY: nothing of this copy of the supervisor is to be concluded.
    unsafe { libc::_exit(0) }
}

/// Until all of these processes have ended.
fn wait_for(pidfds: &[i32]) {
    for pidfd in pidfds {
        // SAFETY: it is in the table, and nobody else is left that would close it.
        let pidfd = unsafe { BorrowedFd::borrow_raw(*pidfd) };
        // Whoever takes the supervisor for dead takes its descriptors from it.
        while !poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::NONE).is_ok_and(|ready| ready > 0) {
            std::thread::sleep(NAP);
        }
    }
}

/// The supervisor has ended.
fn conclude() {
    let (mut stand_ins, mut processes) = (Vec::new(), Vec::new());
    for (number, link) in descriptors::all() {
        match link.as_str() {
            "anon_inode:[eventfd]" => stand_ins.push(number),
            link if link.contains("pidfd") => processes.push(number),
            // The listener; whatever was taken from a client for a moment.
            // SAFETY: no value of this process is used again.
            _ => _ = unsafe { libc::close(number) },
        }
    }
    for stand_in in stand_ins {
        // SAFETY: an eventfd of the table's.
        let _ = write(unsafe { BorrowedFd::borrow_raw(stand_in) }, &1u64.to_ne_bytes());
    }
    wait_for(&processes);
}
