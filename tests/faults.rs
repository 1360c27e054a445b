//! Every system call of a client that uses rings is made to fail in its turn, once and for good: the library's and the client's own,
//! in all threads and the forked child. The client (`tests/clients/faults.c`) tries again what has failed, so that nothing may be
//! lost, doubled or left behind; where the failure lasts it may give up, by a clear error. Nobody hangs or dies.
//!
//! Failures are strace's (`--inject`), which counts the calls of each name in each thread. Calls before the client's `main` are the
//! loader's, and left alone. `NLMMAP_FAULTS=all` tries every error that a call can have, not one for each place.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use support::{Build, Mode, Outcome, compile, need_root, patient, preload, run, scratch};

/// The client has given a step up, and has said why.
const GIVEN_UP: i32 = 4;
const REFUSED: i32 = 3;

/// Calls that never fail, or whose failure ends any program; and those that give something back, where a failure that has not
/// happened leaves it there (a real `close` gives the number back whatever it answers).
const LEFT_ALONE: &[&str] = &[
    "arch_prctl",
    "brk",
    "close",
    "execve",
    "exit",
    "exit_group",
    "geteuid",
    "getpid",
    "gettid",
    "getuid",
    "munmap",
    "restart_syscall",
    "rseq",
    "rt_sigreturn",
    "set_robust_list",
    "set_tid_address",
    "write",
];

/// What a call can answer: what its manual page says of full tables, lack of memory and signals. Calls that are not named here are
/// those that a sandbox may refuse.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "mmap" | "mprotect" | "mremap" => &["ENOMEM"],
        "madvise" => &["EINVAL", "ENOMEM"],
        "openat" => &["EMFILE", "ENOENT", "EACCES"],
        "socket" => &["EMFILE", "ENOBUFS"],
        "bind" => &["EADDRINUSE", "ENOMEM"],
        "getsockname" => &["ENOBUFS"],
        "getsockopt" => &["EPERM", "ENOBUFS"],
        "setsockopt" => &["ENOPROTOOPT", "ENOMEM", "EPERM"],
        "sendto" | "sendmsg" | "sendmmsg" => &["ENOBUFS", "EINTR", "EAGAIN"],
        "recvmsg" | "recvmmsg" => &["ENOMEM", "EINTR", "ENOBUFS"],
        "recvfrom" => &["ENOMEM", "EINTR"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM"],
        "epoll_wait" | "epoll_pwait" | "wait4" | "nanosleep" | "clock_nanosleep" => &["EINTR"],
        "epoll_create1" | "eventfd2" | "dup" => &["EMFILE"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC"],
        "clone" => &["EAGAIN"],
        "clone3" => &["EAGAIN", "ENOSYS"],
        "fcntl" => &["EMFILE", "EINVAL"],
        "pidfd_open" => &["EMFILE", "ENOSYS"],
        "read" | "getdents64" => &["EIO"],
        "futex" => &["EINTR", "EAGAIN"],
        "fallocate" => &["ENOSPC", "ENOSYS"],
        _ => &["ENOSYS", "EPERM"],
    }
}

/// A place of a failure: the call's name, and which of them in its thread.
type Place = (String, u32);

struct Dialogue {
    mode: Mode,
    lasting: bool,
    client: PathBuf,
}

impl Dialogue {
    fn new(mode: Mode, lasting: bool) -> Dialogue {
        need_root();
        Dialogue { mode, lasting, client: compile("faults", Build::Plain) }
    }

    fn command(&self, strace: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "strace", "--follow-forks", "--quiet=all"]).args(strace);
        command.arg("--env").arg(format!("LD_PRELOAD={}", preload().display())).args(["--env", "NLMMAP_LOG=info"]);
        if self.mode == Mode::Strict {
            command.args(["--env", "NLMMAP_STRICT=1"]);
        }
        command.arg(&self.client);
        command
    }

    fn run(&self, strace: &[String]) -> Outcome {
        run(&mut self.command(strace), patient(30))
    }

    /// Runs it without failures: where its calls are, and what it ends with.
    fn places(&self) -> (BTreeSet<Place>, Vec<u32>) {
        let record = scratch("calls");
        let outcome = self.run(&[format!("--output={}", record.display())]);
        assert!(outcome.success(), "without failures it {}", outcome.describe());
        let text = fs::read_to_string(&record).expect("strace writes its record");
        let _ = fs::remove_file(record);
        (places(&text), numbers(&outcome.stdout))
    }

    /// Tries one failure: what is wrong with the end, if anything.
    fn complaint(&self, (call, nth): &Place, error: &str, left: &[u32]) -> Option<String> {
        let when = if self.lasting { format!("{nth}+") } else { nth.to_string() };
        let strace = ["--output=/dev/null".to_string(), format!("--inject={call}:error={error}:when={when}")];
        let outcome = self.run(&strace);
        let now = numbers(&outcome.stdout);
        let why = match outcome.code {
            Some(0) if !self.lasting && now.iter().zip(left).any(|(now, left)| now > left) => {
                "has left something behind"
            }
            Some(0) => return None,
            // A refusal with its reason.
            Some(REFUSED) if outcome.stderr.contains("nlmmap[") => return None,
            Some(REFUSED) => "was refused rings and not told why",
            Some(GIVEN_UP) if self.lasting => return None,
            Some(GIVEN_UP) => "could not do again what had failed once",
            _ => "went wrong",
        };
        Some(format!(
            "{call} number {nth} fails by {error}: {why}; it {}\nto see it again: {:?}",
            outcome.describe(),
            self.command(&strace)
        ))
    }

    fn holds(&self) {
        let (places, left) = self.places();
        assert!(places.len() > 100, "only {} calls: {places:?}", places.len());
        let all = std::env::var("NLMMAP_FAULTS").is_ok_and(|faults| faults == "all");
        let tries: Vec<(Place, &str)> = places
            .into_iter()
            .flat_map(|place| {
                // An interruption that never ends is none.
                let errors: Vec<&str> =
                    errors(&place.0).iter().copied().filter(|error| !(self.lasting && *error == "EINTR")).collect();
                let chosen = if all {
                    errors
                } else {
                    errors.iter().cycle().skip(place.1 as usize).take(errors.len().min(1)).copied().collect()
                };
                chosen.into_iter().map(move |error| (place.clone(), error))
            })
            .collect();
        let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some((place, error)) = tries.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(complaint) = self.complaint(place, error, &left) {
                            complaints.lock().unwrap().push(complaint);
                        }
                    }
                });
            }
        });
        let complaints = complaints.into_inner().unwrap();
        println!("{} failures tried", tries.len());
        assert!(
            complaints.is_empty(),
            "{} of {} failures:\n{}",
            complaints.len(),
            tries.len(),
            complaints.join("\n\n")
        );
    }
}

/// The places in strace's record of a run: of the first process between its two lines on standard error, of others everywhere.
fn places(record: &str) -> BTreeSet<Place> {
    let mut counts: HashMap<(&str, &str), u32> = HashMap::new();
    let (mut places, mut first, mut by_loader) = (BTreeSet::new(), None, HashMap::new());
    for line in record.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if !call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let first = *first.get_or_insert(pid);
        let nth = counts.entry((pid, call)).or_default();
        *nth += 1;
        let nth = *nth;
        if pid == first && arguments.contains("\"begin") {
            by_loader = counts.iter().map(|((_, call), n)| (call.to_string(), *n)).collect();
        } else if pid == first && arguments.contains("\"end") {
            break;
        } else if pid != first || !by_loader.is_empty() {
            places.insert((call.to_string(), nth));
        }
    }
    places.retain(|(call, nth)| !LEFT_ALONE.contains(&call.as_str()) && by_loader.get(call).is_none_or(|n| nth > n));
    places
}

/// "failures 0, descriptors 7, ...": all but the first number.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).skip(1).collect()
}

#[test]
fn each_call_fails_once() {
    Dialogue::new(Mode::Default, false).holds();
}

#[test]
fn each_call_fails_once_in_strict_mode() {
    Dialogue::new(Mode::Strict, false).holds();
}

#[test]
fn each_call_fails_for_good() {
    Dialogue::new(Mode::Default, true).holds();
}

#[test]
fn places_are_read_from_a_record() {
    let record = "7 mmap(NULL, 1) = 0\n7 write(2, \"begin\\n\", 6) = 6\n7 mmap(NULL, 2) = 0\n8 mmap(NULL, 1) = 0\n\
                  7 <... poll resumed>) = 0\n7 bind(3) = 0\n8 bind(3) = 0\n8 bind(3) = 0\n7 write(2, \"end\\n\", 4) = 4\n7 socket(1) = 3\n";
    let expected = [("bind", 1), ("bind", 2), ("mmap", 2)].map(|(call, nth)| (call.to_string(), nth));
    assert_eq!(places(record), BTreeSet::from(expected));
}
