//! System calls of the daemon, its spawner and its workers fail in their turn, while it starts, while two clients use it one after the
//! other, and while it ends. It starts, or says why not; clients are served, or told by an error; it ends when it is asked to, or says
//! why it has ended before; and nothing is left behind.
//!
//! As in `tests/faults.rs` the failures are strace's, which counts in each process and thread: what fails in a worker fails in each
//! new worker. Of calls that are made often a few are tried (`NLMMAP_FAULTS=all`: forty).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{NLMMAP, Place, is_about_ring_files};
use crate::support::{Build, compile, need_root, patient, preload, run, scratch};

/// Those of `tests/faults.rs`, and: what the Rust library calls before `main`, and what never fails but by a bad argument (a lock
/// taken away, a signal's own pipe).
const LEFT_ALONE: &[&str] = &[
    "arch_prctl",
    "brk",
    "clock_nanosleep",
    "close",
    "execve",
    "exit",
    "exit_group",
    "flock",
    "futex",
    "geteuid",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "lseek",
    "munmap",
    "recvfrom",
    "restart_syscall",
    "rmdir",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "shutdown",
    "sigaltstack",
    "umount2",
    "unlink",
    "write",
];

fn error(call: &str) -> &'static str {
    match call {
        "mmap" | "mprotect" | "madvise" | "bind" | "setsockopt" | "recvmsg" | "recvmmsg" | "epoll_ctl" | "ioctl"
        | "listen" => "ENOMEM",
        "openat" | "open" | "socket" | "epoll_create1" | "fcntl" | "eventfd2" | "pidfd_open" | "memfd_create"
        | "timerfd_create" | "socketpair" => "EMFILE",
        "getsockname" | "getsockopt" | "sendmsg" => "ENOBUFS",
        "poll" | "ppoll" | "epoll_wait" | "epoll_pwait" | "read" | "writev" | "wait4" => "EINTR",
        "clone" | "clone3" | "connect" => "EAGAIN",
        "fallocate" | "ftruncate" | "mkdir" | "pwrite64" => "ENOSPC",
        "statx" | "newfstatat" | "readlink" => "EACCES",
        "fstat" => "EIO",
        _ => "EPERM",
    }
}

/// The daemon under strace, and how it came up.
struct Traced<'a> {
    place: &'a Place,
    strace: Child,
    ready: bool,
}

impl Drop for Traced<'_> {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

impl Traced<'_> {
    fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Until it is ready or has ended.
    fn start<'a>(place: &'a mut Place, strace: &[String]) -> Traced<'a> {
        place.wrap = ["strace", "--follow-forks", "--quiet=all"].map(String::from).into();
        place.wrap.extend(strace.iter().cloned());
        let place = &*place;
        let socket = UnixDatagram::bind(place.path("notify")).expect("a notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let log = fs::File::create(place.path("log")).expect("a log file");
        let mut command = place.serve();
        command.env("NOTIFY_SOCKET", place.path("notify")).stdout(Stdio::null()).stderr(log);
        let mut traced = Traced { place, strace: command.spawn().expect("strace starts"), ready: false };
        let until = Instant::now() + patient(30);
        while Instant::now() < until && traced.strace.try_wait().expect("a child of ours").is_none() {
            // Where it cannot tell systemd it says so, and serves all the same.
            if socket.recv(&mut [0; 64]).is_ok() || traced.log().contains("cannot tell systemd") {
                traced.ready = true;
                break;
            }
        }
        traced
    }

    fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.strace.try_wait().expect("a child of ours")?;
        Some(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
    }

    /// The exit status, once the daemon is asked to end.
    fn end(&mut self) -> Option<i32> {
        let pid = self.strace.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(daemon) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(daemon), Signal::SIGTERM);
        }
        let until = Instant::now() + patient(30);
        while Instant::now() < until {
            if let Some(code) = self.ended() {
                return Some(code);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

/// A client through the node: what is wrong with its end.
fn client(place: &Place) -> Result<(), String> {
    let mut command = Command::new("unshare");
    command.args(["--net", NLMMAP, "run", "--device"]).arg(place.node()).arg("--").arg(compile("faults", Build::Plain));
    let outcome = run(command.env("NLMMAP_PRELOAD", preload()), patient(30));
    match outcome.code {
        Some(0) => Ok(()),
        // Refused, or given up, and told why; 125 and above are `nlmmap run`'s own.
        Some(3 | 4 | 125..=127) if outcome.stderr.lines().any(|line| line.contains(": ")) => Ok(()),
        _ => Err(format!("a client {}", outcome.describe())),
    }
}

fn complaint(strace: &[String]) -> Result<(), String> {
    let mut place = Place::new();
    let mut traced = Traced::start(&mut place, strace);
    let wrong = |what: &str, log: &str| Err(format!("{what}\nthe daemon:\n{log}"));
    if traced.ready {
        for _ in 0..2 {
            if traced.ended().is_none() {
                client(traced.place).or_else(|what| wrong(&what, &traced.log()))?;
            }
        }
    }
    let code = if traced.ready || traced.ended().is_some() {
        traced.end()
    } else {
        return wrong("it neither starts nor ends", &traced.log());
    };
    let log = traced.log();
    match code {
        Some(0) if traced.ready => {}
        // By its own decision, with the reason.
        Some(1..=5) if log.lines().any(|line| line.starts_with("nlmmap: ")) => {}
        _ => return wrong(&format!("it ended with {code:?}"), &log),
    }
    drop(traced);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let run: Vec<_> = fs::read_dir(place.path("run")).into_iter().flatten().flatten().collect();
    if mounts.contains(&place.directory.path().display().to_string()) || place.path("node").exists() || !run.is_empty()
    {
        return wrong(&format!("something is left: {run:?}, and a mount or its directory"), &log);
    }
    Ok(())
}

/// How often each call is made, at most, in one process or thread; and in the first one before it makes another.
fn calls(record: &str) -> BTreeMap<String, (u32, u32)> {
    let mut counts: HashMap<(&str, &str), u32> = HashMap::new();
    let (mut first, mut early) = (None, HashMap::new());
    for line in record.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        *counts.entry((pid, call)).or_default() += 1;
        if *first.get_or_insert(pid) == pid && call == "clone" && early.is_empty() {
            early = counts.iter().map(|((_, call), n)| ((*call).to_string(), *n)).collect();
        }
    }
    let mut calls = BTreeMap::new();
    for ((_, call), n) in counts {
        let entry: &mut (u32, u32) =
            calls.entry(call.to_string()).or_insert((0, early.get(call).copied().unwrap_or(0)));
        entry.0 = entry.0.max(n);
    }
    calls
}

#[test]
fn each_call_of_the_daemon_fails() {
    need_root();
    if is_about_ring_files() {
        return;
    }
    let record = scratch("calls");
    complaint(&[format!("--output={}", record.display())]).unwrap_or_else(|what| panic!("without failures: {what}"));
    let calls = calls(&fs::read_to_string(&record).expect("strace writes its record"));
    let _ = fs::remove_file(record);
    let each = if std::env::var("NLMMAP_FAULTS").is_ok_and(|faults| faults == "all") { 40 } else { 3 };
    let mut tries = Vec::new();
    for (call, (most, early)) in &calls {
        let spawner_is_made = u32::from(matches!(call.as_str(), "clone"));
        let from = (early + 1 - spawner_is_made).max(1);
        let step = ((most.saturating_sub(from) + 1) / each).max(1);
        let places = (from..=*most).step_by(step as usize).take(each as usize);
        tries.extend(places.filter(|_| !LEFT_ALONE.contains(&call.as_str())).map(|nth| (call.as_str(), nth)));
    }
    assert!(tries.len() > 60, "only {tries:?}");
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((call, nth)) = tries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let inject = format!("--inject={call}:error={}:when={nth}", error(call));
                    if let Err(what) = complaint(&["--output=/dev/null".into(), inject.clone()]) {
                        complaints.lock().unwrap().push(format!("strace {inject}: {what}"));
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    println!("{} failures tried", tries.len());
    assert!(complaints.is_empty(), "{} of {} failures:\n{}", complaints.len(), tries.len(), complaints.join("\n\n"));
}
