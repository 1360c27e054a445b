//! What is not made to fail, and why; and what calls answer that are.

use std::collections::BTreeSet;

use super::places::Place;
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
        "setns" => &[libc::ENOMEM, libc::EPERM],
        _ => &[libc::EPERM, libc::ENOSYS],
    }
}

/// What is tried of it: one, another for each, or all.
pub fn hows(call: &str, nth: usize) -> Vec<How> {
    let how = |answer: &i32| if *answer == SHORT { How::Short } else { How::Error(*answer) };
    let all = answers(call).iter().map(how);
    if std::env::var("NLMMAP_FAULTS").is_ok_and(|faults| faults == "all") {
        return all.collect();
    }
    all.cycle().skip(nth).take(1).collect()
}

/// Places that nobody comes to, or whose failure is told elsewhere: file, function (all if empty), calls (all if empty), and why.
const NOT_FAILED: &[Entry] = &[
    // What cannot fail as it is asked.
    ("src/serve/worker/engine/requests.rs", "request", "epoll_ctl", "takes away what is there"),
    ("src/serve/worker/engine/requests.rs", "on_open", "epoll_ctl", "takes away what is there"),
    ("src/serve/workers.rs", "dismiss", "epoll_ctl", "takes away what is there"),
    ("src/serve/workers.rs", "dismiss", "shutdown", "of a socket that is connected"),
    ("src/serve/workers/one.rs", "kill", "shutdown", "of a socket that is connected"),
    ("src/serve/worker/spawner.rs", "Spawner::end", "shutdown", "of a socket that is connected"),
    ("src/serve/worker/engine.rs", "take_requests", "fcntl", "asks a memfd what it is, which it always answers"),
    ("src/serve/workers/listening.rs", "hear", "fcntl", "asks a memfd what it is, which it always answers"),
    ("src/serve/workers/listening.rs", "end", "write", "an event counter takes a 1 whole"),
    ("src/serve/capture.rs", "drop", "write", "an event counter takes a 1 whole"),
    ("src/serve/stat/server.rs", "drop", "write", "an event counter takes a 1 whole"),
    ("src/serve/metrics/server.rs", "drop", "write", "an event counter takes a 1 whole"),
    ("crates/cuse-rs/src/stop.rs", "stop", "write syscall!", "an event counter takes a 1 whole"),
    (
        "src/serve/workers/listening.rs",
        "::listen",
        "read epoll_ctl",
        "reads a timer that has fired; takes away what is there",
    ),
    ("src/serve/workers/listening.rs", "next_turns", "", "a timer and a time that is one"),
    (
        "src/serve/node/lock.rs",
        "Lock::take",
        "flock",
        "gives back a lock that is to be taken again, or the second of two tries",
    ),
    ("src/serve/mod.rs", "run", "flock", "gives the lock back at the end of the process"),
    // Other commands, a character device, and what is the library's alone.
    ("crates/cuse-rs/src/cuse.rs", "", "", "a character device: crates/cuse-rs, `cargo xtask vm cuse`"),
    ("src/serve/file/rings.rs", "use_memory", "", "a character device"),
    ("src/serve/file/rings.rs", "set_ring", "", "a character device, whose rings change once more"),
    ("src/serve/worker/open/rings.rs", "use_memory", "", "a character device"),
    ("src/serve/mappers.rs", "has_others", "", "a character device"),
    ("src/serve/capture.rs", "Channel::", "", "in `nlmmap capture`, not in the daemon"),
    ("src/serve/stat/ask.rs", "", "", "in `nlmmap stat` and its like, not in the daemon"),
    ("src/policy/config.rs", "first_fields", "", "in `nlmmap policy`, not in the daemon"),
    (
        "src/cli/serve.rs",
        "group",
        "",
        "names of groups: by name services, which give no reason; a name that is not known is told",
    ),
    ("src/serve/local.rs", "listen", "chown", "metrics for a group: a failure is that of the mode, one call before"),
    ("src/serve/metrics/listen.rs", "Listener::", "", "metrics at a port: as at a file, from the same places on"),
    ("crates/ring/src/endpoint.rs", "open_over", "", "gives back behind a mapping that failed"),
    ("crates/ring/src/lock.rs", "", "", "the library's: a worker is alone with its rings"),
    ("crates/ring/src/rx/bell.rs", "", "", "the library's: nobody waits for a worker's socket but the worker"),
    ("crates/ring/src/rx/congestion.rs", "", "", "no client here comes to it; faults.rs has it fail, in the library"),
    ("crates/ring/src/rx/single.rs", "look", "", "no client here comes to it; faults.rs has it fail, in the library"),
    ("crates/ring/src/tx/refusal.rs", "", "", "no client here comes to it; faults.rs has it fail, in the library"),
    ("crates/ring/src/tx.rs", "autobind", "", "a socket that is not bound; faults.rs has it fail, in the library"),
    (
        "crates/ring/src/tap.rs",
        "copy_as",
        "",
        "forgets a memory that was replaced: a capture's, and captures nothing more",
    ),
    (
        "crates/ring/src/store.rs",
        "reclaim",
        "",
        "above a mebibyte that waits; gives pages back, which stay if it fails",
    ),
    // Behind another failure, or by chance.
    (
        "src/serve/workers/one.rs",
        "Worker::kill",
        "",
        "by chance: ends those that nobody has used for seconds, whose channel has ended, too",
    ),
    (
        "src/serve/workers.rs",
        "::tick",
        "",
        "by chance: once a second; reads a timer that has fired, and whatever it says goes on",
    ),
    (
        "crates/cuse-rs/src/keeper.rs",
        "",
        "",
        "by chance: waits for the end, or a mount elsewhere; a failure ends the session, with its reason",
    ),
    ("crates/ring/src/endpoint/rings.rs", "map_ring", "", "gives back behind a mapping that failed"),
    ("crates/ring/src/endpoint/rings.rs", "unmap_ring", "", "gives back"),
    (
        "crates/ring/src/tx/joining.rs",
        "send_some",
        "",
        "by chance: a batch of one, since the client took the second frame back",
    ),
    (
        "crates/ring/src/tx.rs",
        "go_on",
        "",
        "a kick that may be refused as a whole; faults.rs has it fail, in the library",
    ),
    ("src/serve/socket.rs", "begin_ring", "", "SO_RCVBUF behind a refused SO_RCVBUFFORCE"),
    (
        "src/serve/socket.rs",
        "take_error",
        "",
        "by chance: an error while the ring is full; none is told then, and the next look finds it",
    ),
    (
        "crates/cuse-rs/src/fuse/mount.rs",
        "resolve",
        "",
        "a directory that is not there, or behind a dead mount: its own failure is told",
    ),
    ("crates/cuse-rs/src/fuse/nodes.rs", "same_file", "", "a second ring file of the same memory: crates/cuse-rs"),
    (
        "crates/cuse-rs/src/session.rs",
        "greeting",
        "",
        "by chance: the kernel's greeting is there before it is asked for",
    ),
    (
        "crates/cuse-rs/src/session.rs",
        "sleeper",
        "",
        "the first thread's comes before the second's: each ends the session, with its reason",
    ),
    (
        "src/cli/serve.rs",
        "main",
        "",
        "behind another failure: a thread for the last words, which are said without it, too",
    ),
    (
        "src/serve/limits/machine.rs",
        "accounts",
        "",
        "where no file of version 1 or 2 is there: then rings are the daemon's to pay",
    ),
    ("src/serve/local.rs", "::listen", "unlink", "behind a failure that is told; the next daemon clears it"),
    ("src/serve/local.rs", "clear", "unlink", "a socket that is left: its own failure is told"),
    (
        "src/serve/log/queue.rs",
        "write",
        "poll",
        "a standard error that somebody has made non-blocking: it is tried again",
    ),
    ("src/serve/metrics/server.rs", "go_on", "", "by chance: a question in two pieces; the connection ends"),
    ("src/serve/node.rs", "allow_many_descriptors", "setrlimit prlimit64", "where the limit is low, which only warns"),
    ("src/serve/worker/judged.rs", "refuse", "", "fills the sender into an answer, 0 where it is not told"),
    ("src/serve/worker/sifted.rs", "clear_front", "", "what it cannot look at is the client's to see"),
    (
        "src/serve/worker/sifted.rs",
        "sift",
        "",
        "by chance: what may not arrive is taken away, and is still there if that fails",
    ),
    ("src/serve/worker/spawner.rs", "failed", "", "tells of another failure"),
    ("src/serve/worker/spawner.rs", "::spawn", "", "tells of another failure"),
    ("src/serve/workers.rs", "look_after", "", "asks a silent worker whether it lives; without an answer it is killed"),
    ("src/serve/workers/one.rs", "::send", "epoll_ctl", "asks to be told of room; every second it is looked at, too"),
];

/// File, function (all if empty), calls (all if empty), reason.
type Entry = (&'static str, &'static str, &'static str, &'static str);

fn is_of((file, function, _, _): &Entry, place: &Place) -> bool {
    place.file == *file && place.function.contains(function)
}

/// Whether a call there is not to be tried.
pub fn is_spared(place: &Place, call: &str) -> bool {
    NOT_FAILED.iter().any(|entry| is_of(entry, place) && entry.2.split(' ').any(|spared| spared == call))
}

/// Whether it has a reason for not having failed, which stands for all that it calls.
pub fn has_reason(place: &Place, imports: &BTreeSet<String>) -> bool {
    let covers =
        |calls: &str| calls.is_empty() || imports.iter().all(|import| calls.split(' ').any(|call| call == import));
    NOT_FAILED.iter().any(|entry| is_of(entry, place) && covers(entry.2))
}

/// Entries that stand for nothing any more.
pub fn unused(all: &BTreeSet<Place>) -> Vec<&'static Entry> {
    NOT_FAILED.iter().filter(|entry| !all.iter().any(|place| is_of(entry, place))).collect()
}
