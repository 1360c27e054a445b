//! What calls are made to answer, and which are not made to fail anywhere.

use std::collections::BTreeSet;

use super::tracer::How;

/// Calls that never fail but by a wrong argument, or whose failure ends any program; and those that give something back, where a failure
/// that has not happened leaves it there (a real `close` gives the number back whatever it answers).
const LEFT_ALONE: &[&str] = &[
    "arch_prctl",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "execve",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getresgid",
    "getresuid",
    "gettid",
    "getuid",
    "lseek",
    "munmap",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "setsid",
    "sigaltstack",
];

/// Calls that the allocator makes, too: of a place that does not make them itself they are that.
const ALLOCATORS: &[(&str, &[&str])] = &[
    ("mmap", &["mmap", "mmap64", "pthread_create", "syscall!"]),
    ("mprotect", &["mprotect", "pthread_create", "syscall!"]),
    ("madvise", &["madvise", "syscall!"]),
    ("mremap", &["mremap", "syscall!"]),
];

pub fn is_left_alone(call: &str, imports: &BTreeSet<String>) -> bool {
    let is_allocators =
        |(name, by): &(&str, &[&str])| *name == call && !by.iter().any(|import| imports.contains(*import));
    LEFT_ALONE.contains(&call) || ALLOCATORS.iter().any(is_allocators)
}

/// Stands for half of what was asked for.
const SHORT: i32 = 0;
/// Stands for the end of whom the call is about.
const KILLED: i32 = -1;

/// What a call can answer: what its manual page says of full tables, lack of memory and signals. Calls that are not named here are
/// those that a sandbox may refuse.
fn answers(call: &str) -> &'static [i32] {
    match call {
        "mmap" | "mprotect" | "mremap" => &[libc::ENOMEM],
        "madvise" => &[libc::EINVAL, libc::ENOMEM],
        "openat" | "open" => &[libc::EMFILE, libc::EACCES, libc::ENFILE],
        "socket" | "socketpair" | "accept4" => &[libc::EMFILE, libc::ENOBUFS, libc::ENOMEM],
        "bind" => &[libc::ENOMEM, libc::EADDRINUSE],
        "connect" => &[libc::EAGAIN, libc::EINTR],
        "getsockname" | "getpeername" => &[libc::ENOBUFS],
        "getsockopt" => &[libc::ENOBUFS, libc::EPERM],
        "setsockopt" => &[libc::ENOMEM, libc::EPERM, libc::ENOPROTOOPT],
        "sendto" | "sendmsg" | "sendmmsg" => &[libc::ENOBUFS, libc::EINTR, libc::ENOMEM],
        "recvmsg" | "recvmmsg" | "recvfrom" => &[libc::ENOMEM, libc::EINTR, libc::ENOBUFS],
        "poll" | "ppoll" => &[libc::EINTR, libc::ENOMEM],
        "epoll_wait" | "epoll_pwait" | "wait4" | "nanosleep" => &[libc::EINTR],
        "epoll_create1" | "eventfd2" | "timerfd_create" | "pidfd_getfd" | "pipe2" | "dup" => {
            &[libc::EMFILE, libc::ENOMEM]
        }
        "pidfd_open" => &[libc::EMFILE, libc::ENOSYS, libc::ENOMEM],
        "memfd_create" => &[libc::EMFILE, libc::ENOMEM],
        "epoll_ctl" => &[libc::ENOMEM, libc::ENOSPC],
        "clone" | "clone3" | "fork" => &[libc::EAGAIN, libc::ENOMEM],
        "fcntl" => &[libc::EMFILE, libc::EINVAL],
        "read" => &[libc::EINTR, SHORT, libc::EIO],
        "pread64" => &[libc::EINTR, SHORT, libc::EIO],
        "write" => &[libc::EINTR, SHORT, libc::EAGAIN],
        "pwrite64" => &[libc::EINTR, SHORT, libc::ENOSPC],
        "readv" | "writev" => &[libc::EINTR, libc::ENOMEM],
        "getdents64" | "fstat" | "lseek" => &[libc::EIO],
        "fallocate" => &[libc::ENOSPC, libc::EINTR, libc::ENOMEM],
        "ftruncate" => &[libc::EINTR, libc::ENOSPC],
        "mkdir" => &[libc::ENOSPC, libc::EACCES],
        "statx" | "newfstatat" | "readlink" | "readlinkat" | "stat" | "lstat" => &[libc::EACCES, libc::ENOMEM],
        "ioctl" => &[libc::ENOMEM, libc::EINTR],
        "NOTIF_RECV" | "NOTIF_SEND" | "NOTIF_ID_VALID" => &[libc::EINTR],
        "NOTIF_ADDFD" => &[libc::EINTR, libc::EMFILE, libc::ENOMEM],
        "NOTIF_SET_FLAGS" => &[libc::EINVAL],
        "process_vm_readv" | "process_vm_writev" => &[libc::ENOMEM, KILLED, libc::EPERM],
        // A tracee that stands still answers everything until it is dead.
        "ptrace" => &[KILLED],
        "setns" => &[libc::ENOMEM, libc::EPERM],
        _ => &[libc::EPERM, libc::ENOSYS],
    }
}

/// What is tried of it: one, another for each, or all.
pub fn hows(call: &str, nth: usize) -> Vec<How> {
    let how = |answer: &i32| match *answer {
        SHORT => How::Short,
        KILLED => How::Killed,
        errno => How::Error(errno),
    };
    let all = answers(call).iter().map(how);
    if std::env::var("NLMMAP_FAULTS").is_ok_and(|faults| faults == "all") {
        return all.collect();
    }
    all.cycle().skip(nth).take(1).collect()
}
