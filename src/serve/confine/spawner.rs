//! The system calls of the spawner: forking, entering namespaces, changing identity; and those of workers, who inherit it.

use std::io;

use super::filter::{self, Look, Who};
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
    // Entering a client's control group.
    libc::SYS_write,
];

/// How the file is opened by which a control group is entered: it has to be there, and stays as long as it is.
pub const ENTERING: libc::c_int = libc::O_WRONLY | libc::O_CLOEXEC;

const LOOKS: &[Look] =
    &[Look { calls: &[libc::SYS_openat], argument: 2, mask: u32::MAX, values: &[ENTERING.cast_unsigned()] }];

/// From now on this process and its children make no other calls: they answer `EPERM`.
pub fn confine() -> io::Result<()> {
    filter::confine(Who::Thread, &[worker::ALLOWED, ALLOWED], &[worker::LOOKS, LOOKS])
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
                || unsafe {
                    let how = ENTERING | libc::O_CREAT;
                    libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/tmp/nlmmap-none".as_ptr(), how, 0o600)
                },
                // SAFETY: as above.
                || unsafe {
                    libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/oom_score_adj".as_ptr(), ENTERING)
                },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_unshare, 0) },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into() },
            ],
        );
        assert_eq!(answers, [0, libc::EPERM, libc::EPERM, libc::EPERM, 0, libc::EPERM, libc::EPERM]);
    }
}
