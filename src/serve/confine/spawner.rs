//! The system calls of the spawner: forking, entering namespaces, changing identity; and those of workers, who inherit it.

use std::io;

use super::filter::{self, Who};
use super::worker;

const ALLOWED: &[libc::c_long] = &[
    // A child, and its life.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_setsid,
    libc::SYS_wait4,
    // Descriptors.
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_close_range,
    // Becoming a client.
    libc::SYS_setns,
    libc::SYS_setgroups,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_prctl,
    libc::SYS_seccomp,
];

/// From now on this process and its children make no other calls: they answer `EPERM`.
pub fn confine() -> io::Result<()> {
    filter::confine(Who::Thread, &[worker::ALLOWED, ALLOWED], worker::LOOKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spawner_forks_and_runs_nothing() {
        let answers = filter::tried(
            confine,
            [
                // SAFETY: the child ends at once.
                || unsafe {
                    match libc::fork() {
                        0 => libc::_exit(0),
                        child => child.into(),
                    }
                },
                // SAFETY: strings that end, numbers.
                || unsafe { libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), 0, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_unshare, 0) },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into() },
            ],
        );
        assert_eq!(answers, [0, libc::EPERM, libc::EPERM, libc::EPERM, libc::EPERM]);
    }
}
