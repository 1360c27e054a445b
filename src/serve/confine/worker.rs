//! The system calls a worker may make: those of the engine and of memory. No file is opened, no process looked at.

use std::io;

use super::filter::{self, Look, Who};

pub(super) const ALLOWED: &[libc::c_long] = &[
    // Messages.
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendto,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fstat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sysinfo,
    // Time, and the worker itself.
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_getpriority,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Netlink sockets alone, and turns of its own alone.
pub(super) const LOOKS: &[Look] = &[
    Look { calls: &[libc::SYS_socket], argument: 0, mask: u32::MAX, values: &[libc::AF_NETLINK as u32] },
    Look { calls: &[libc::SYS_sched_setattr], argument: 0, mask: u32::MAX, values: &[0] },
];

/// From now on this thread makes no other calls: they answer `EPERM`.
pub fn confine() -> io::Result<()> {
    filter::confine(Who::Thread, &[ALLOWED], &[LOOKS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_opens_starts_and_looks_at_nothing() {
        let answers = filter::tried(
            confine,
            [
                // SAFETY: numbers, and strings that end.
                || unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).into() },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into() },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY) },
                // SAFETY: as above.
                || unsafe { libc::kill(1, 0).into() },
                // SAFETY: as above; a call that is refused does not fork.
                || unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), 0, 0) },
            ],
        );
        assert_eq!(answers, [0, libc::EPERM, libc::EPERM, libc::EPERM, libc::EPERM, libc::EPERM]);
    }
}
