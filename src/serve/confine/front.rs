//! The system calls of the front, once the node is there.
//!
//! It reads `/proc` and its configuration, answers the device, talks to spawner and workers, and in the end removes what it has
//! made. It opens no file for writing, starts no program, mounts nothing and enters no namespace; its sockets are local ones,
//! and one that asks for the families of generic netlink.

use std::io;

use super::filter::{self, Look, Who};

const ALLOWED: &[libc::c_long] = &[
    // The device, channels, the log.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_lseek,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Looking at files, and removing what was made; opening has a look of its own.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    libc::SYS_unlinkat,
    libc::SYS_umount2,
    // Memory.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sysinfo,
    // Threads, time, workers that come to an end.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getpriority,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_pidfd_open,
    // Memory for rings that a client has made, and gives by the number of its descriptor.
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Everything that would write, make or cut a file; `O_TMPFILE` has the bit of writing, too.
const WRITES: u32 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u32;
const EXEC: u32 = libc::PROT_EXEC as u32;

const LOOKS: &[Look] = &[
    Look { calls: &[libc::SYS_openat], argument: 2, mask: WRITES, values: &[libc::O_RDONLY as u32] },
    #[cfg(target_arch = "x86_64")]
    Look { calls: &[libc::SYS_open], argument: 1, mask: WRITES, values: &[libc::O_RDONLY as u32] },
    // Local ones: the service manager, name services. And netlink, for the look-up.
    Look {
        calls: &[libc::SYS_socket],
        argument: 0,
        mask: u32::MAX,
        values: &[libc::AF_UNIX as u32, libc::AF_NETLINK as u32],
    },
    // Those of FUSE (0xe5), and FIONBIO, TCGETS.
    Look { calls: &[libc::SYS_ioctl], argument: 1, mask: 0xff00, values: &[0xe500, 0x5400] },
    // PR_SET_NAME.
    Look { calls: &[libc::SYS_prctl], argument: 0, mask: u32::MAX, values: &[libc::PR_SET_NAME as u32] },
    // What is executed comes from files: a plug-in of a name service.
    Look { calls: &[libc::SYS_mprotect], argument: 2, mask: EXEC, values: &[0] },
    Look {
        calls: &[libc::SYS_mmap],
        argument: 2,
        mask: EXEC | libc::PROT_WRITE as u32,
        values: &[0, EXEC, libc::PROT_WRITE as u32],
    },
    // Asking for limits, of nobody else.
    Look { calls: &[libc::SYS_prlimit64], argument: 0, mask: u32::MAX, values: &[0] },
];

/// From now on no thread of this process makes other calls: they answer `EPERM`.
pub fn confine() -> io::Result<()> {
    filter::confine(Who::Process, &[ALLOWED], &[LOOKS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_reads_and_changes_nothing() {
        const FILE: &std::ffi::CStr = c"/proc/self/status";
        let answers = filter::tried(
            || filter::confine(Who::Thread, &[ALLOWED], &[LOOKS]),
            [
                // SAFETY: strings that end, and numbers, here and below.
                || unsafe {
                    libc::syscall(libc::SYS_openat, libc::AT_FDCWD, FILE.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)
                },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into() },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC).into() },
            ],
        );
        assert_eq!(answers, [0; 3]);
        let refused = filter::tried(
            || filter::confine(Who::Thread, &[ALLOWED], &[LOOKS]),
            [
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, FILE.as_ptr(), libc::O_RDWR) },
                // SAFETY: as above.
                || unsafe {
                    libc::syscall(
                        libc::SYS_openat,
                        libc::AT_FDCWD,
                        c"/tmp".as_ptr(),
                        libc::O_TMPFILE | libc::O_WRONLY,
                        0o600,
                    )
                },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, FILE.as_ptr(), libc::O_CREAT, 0o600) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, FILE.as_ptr(), &[0u64; 3], 24) },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into() },
                // SAFETY: as above.
                || unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).into() },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), 0, 0) },
                // SAFETY: as above.
                || unsafe {
                    libc::mount(c"none".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()).into()
                },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_setns, 0, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_setresuid, 1, 1, 1) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_mmap, 0, 4096, 7, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, 0) },
                // SAFETY: as above.
                || unsafe { libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI & !0x5400 | 0x8900, 0) },
            ],
        );
        assert_eq!(refused, [libc::EPERM; 16]);
    }
}
