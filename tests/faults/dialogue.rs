//! One run of a client under strace, and the runs in which one of its calls fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Build, Mode, Outcome, compile, need_root, patient, preload, run, scratch};

/// Endpoints' files of a process that is gone, which the first one who looks takes away: in each run the same, and not what others have
/// left on this machine meanwhile.
const LEFT_BEHIND: &str =
    "mount -t tmpfs run /run && mkdir -m 700 /run/nlmmap-0 && cd /run/nlmmap-0 && touch 4194303.1 4194303.2 && cd /";

/// The client has given a step up, and has said why.
const GIVEN_UP: i32 = 4;
const REFUSED: i32 = 3;
/// strace's mark of a call that it has made fail.
const INJECTED: &str = "(INJECTED)";
/// Of a hundred calls so many may be made in the record and not in three runs after it: how often threads ask is a matter of time ...
const MOST_UNMADE: usize = 3;
/// ... and how often they wait is nothing else.
const WAITS: &[&str] = &["clock_nanosleep", "epoll_pwait", "epoll_wait", "futex", "nanosleep", "poll", "ppoll"];

/// Calls that never fail, or whose failure ends any program; and those that give something back, where a failure that has not
/// happened leaves it there (a real `close` gives the number back whatever it answers).
pub const LEFT_ALONE: &[&str] = &[
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
pub type Place = (String, u32);

/// A client, and how it is run.
#[derive(Clone)]
pub struct Dialogue {
    pub mode: Mode,
    pub lasting: bool,
    client: PathBuf,
    library: PathBuf,
    /// A node that it has its sockets from.
    node: Option<PathBuf>,
    /// What fails all the time, beside what is tried.
    beside: Option<&'static str>,
}

impl Dialogue {
    pub fn new(client: &str, mode: Mode, lasting: bool) -> Dialogue {
        need_root();
        let client = compile(client, Build::Plain);
        Dialogue { mode, lasting, client, library: preload().into(), node: None, beside: None }
    }

    /// With another build of the library.
    pub fn under(self, library: &Path) -> Dialogue {
        Dialogue { library: library.into(), ..self }
    }

    /// Over a node.
    pub fn through(self, node: PathBuf) -> Dialogue {
        Dialogue { node: Some(node), ..self }
    }

    /// While this (`CALL:error=ERROR`) fails all the time, too.
    pub fn beside(self, failure: &'static str) -> Dialogue {
        Dialogue { beside: Some(failure), ..self }
    }

    /// What fails all the time.
    fn failing(&self) -> Option<&'static str> {
        self.beside?.split(':').next()
    }

    pub fn fails_anyway(&self, call: &str) -> bool {
        self.failing() == Some(call)
    }

    fn command(&self, strace: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", &format!("{LEFT_BEHIND} && exec \"$@\""), "sh"]);
        command.args(["strace", "--follow-forks", "--quiet=all"]).args(strace);
        command.args(self.beside.map(|call| format!("--inject={call}")));
        command.arg("--env").arg(format!("LD_PRELOAD={}", self.library.display())).args(["--env", "NLMMAP_LOG=info"]);
        if let Some(node) = &self.node {
            command.arg("--env").arg(format!("NLMMAP_DEVICE={}", node.display()));
        }
        if self.mode == Mode::Strict {
            command.args(["--env", "NLMMAP_STRICT=1"]);
        }
        command.arg(&self.client);
        command
    }

    fn run(&self, strace: &[String]) -> Outcome {
        run(&mut self.command(strace), patient(30))
    }

    /// Runs it without failures: strace's record, and what it ends with.
    fn record(&self, more: &[&str]) -> (String, Vec<u32>) {
        let record = scratch("calls");
        let mut strace = vec![format!("--output={}", record.display())];
        strace.extend(more.iter().map(ToString::to_string));
        let outcome = self.run(&strace);
        assert!(outcome.success(), "without failures it {}", outcome.describe());
        let text = fs::read_to_string(&record).expect("strace writes its record");
        let _ = fs::remove_file(record);
        (text, numbers(&outcome.stdout))
    }

    /// The same: each call that may fail with the addresses in the library that it comes from, of all threads, and what it ends with.
    pub fn calls(&self) -> (BTreeMap<Place, BTreeSet<u64>>, Vec<u32>) {
        let (text, left) = self.record(&["--stack-traces"]);
        (places(&text), left)
    }

    /// Tries one failure: whether it has happened (in some run of three; threads do not do the same each time), and what is wrong with the
    /// end, if anything.
    fn attempt(&self, place: &Place, error: &str, left: &[u32]) -> (bool, Option<String>) {
        for _ in 0..3 {
            let (happened, complaint) = self.attempt_once(place, error, left);
            if happened || complaint.is_some() {
                return (happened, complaint);
            }
        }
        (false, None)
    }

    fn attempt_once(&self, place: &Place, error: &str, left: &[u32]) -> (bool, Option<String>) {
        let (call, nth) = place;
        let when = if self.lasting { format!("{nth}+") } else { nth.to_string() };
        let record = scratch("injected");
        let output = format!("--output={}", record.display());
        // Of other calls nothing is written; and none fails that is not traced.
        let traced: Vec<&str> = self.failing().into_iter().chain([call.as_str()]).collect();
        let strace =
            [output, format!("--trace={}", traced.join(",")), format!("--inject={call}:error={error}:when={when}")];
        let outcome = self.run(&strace);
        let has_failed = |line: &str| line.contains(INJECTED) && line.split([' ', '(']).any(|word| word == call);
        let happened = fs::read_to_string(&record).is_ok_and(|text| text.lines().any(has_failed));
        let _ = fs::remove_file(record);
        (happened, self.complaint(place, error, left, &outcome, &strace))
    }

    fn complaint(
        &self,
        (call, nth): &Place,
        error: &str,
        left: &[u32],
        outcome: &Outcome,
        strace: &[String],
    ) -> Option<String> {
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
            self.command(strace)
        ))
    }

    /// Every call fails.
    pub fn holds(&self) {
        let (text, left) = self.record(&[]);
        let places: Vec<Place> = places(&text).into_keys().collect();
        assert!(places.len() > 100, "only {} calls: {places:?}", places.len());
        let failed = self.each_fails(&places, &left);
        let is_unmade = |place: &&Place| {
            !failed.contains(place) && !self.errors(place).is_empty() && !WAITS.contains(&place.0.as_str())
        };
        let unmade: Vec<&Place> = places.iter().filter(is_unmade).collect();
        let most = places.len() * MOST_UNMADE / 100;
        assert!(unmade.len() <= most, "{} of {} calls were not made again: {unmade:?}", unmade.len(), places.len());
    }

    fn errors(&self, (call, _): &Place) -> Vec<&'static str> {
        // An interruption that never ends is none.
        errors(call).iter().copied().filter(|error| !(self.lasting && *error == "EINTR")).collect()
    }

    /// These calls fail, one in each run. Those that have.
    pub fn each_fails(&self, places: &[Place], left: &[u32]) -> BTreeSet<Place> {
        let tries: Vec<(&Place, &str)> = places
            .iter()
            .flat_map(|place| {
                let errors = self.errors(place);
                let chosen = if all_errors() {
                    errors
                } else {
                    errors.iter().cycle().skip(place.1 as usize).take(errors.len().min(1)).copied().collect()
                };
                chosen.into_iter().map(move |error| (place, error))
            })
            .collect();
        let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let (failed, unmade) = (Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some((place, error)) = tries.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (happened, complaint) = self.attempt(place, error, left);
                        complaints.lock().unwrap().extend(complaint);
                        if happened {
                            failed.lock().unwrap().insert((*place).clone());
                        } else {
                            unmade.lock().unwrap().push((place, error));
                        }
                    }
                });
            }
        });
        let complaints = complaints.into_inner().unwrap();
        let unmade = unmade.into_inner().unwrap();
        println!("{} failures tried, {} calls not made again: {unmade:?}", tries.len(), unmade.len());
        assert!(
            complaints.is_empty(),
            "{} of {} failures:\n{}",
            complaints.len(),
            tries.len(),
            complaints.join("\n\n")
        );
        failed.into_inner().unwrap()
    }
}

/// Every error that a call can have, not one for each place.
pub fn all_errors() -> bool {
    std::env::var("NLMMAP_FAULTS").is_ok_and(|faults| faults == "all")
}

/// The places in strace's record of a run: of the first process between its two lines on standard error, of others everywhere. With
/// the record of stacks, each with its address in the preload library if the call is made there.
fn places(record: &str) -> BTreeMap<Place, BTreeSet<u64>> {
    let mut counts: HashMap<(&str, &str), u32> = HashMap::new();
    let (mut places, mut first, mut by_loader) = (BTreeMap::<_, BTreeSet<_>>::new(), None, HashMap::new());
    // The call whose stack comes next, and the last one of each thread.
    let (mut current, mut latest): (Option<Place>, HashMap<&str, Place>) = (None, HashMap::new());
    for line in record.lines() {
        if let Some(frame) = line.strip_prefix(" > ") {
            // Its innermost frame only.
            if let (Some(place), Some(address)) = (current.take(), address(frame))
                && let Some(at) = places.get_mut(&place)
            {
                at.insert(address);
            }
            continue;
        }
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        if rest.trim_start().starts_with("<... ") {
            current = latest.get(pid).cloned();
            continue;
        }
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if !call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let first = *first.get_or_insert(pid);
        let nth = counts.entry((pid, call)).or_default();
        *nth += 1;
        let place = (call.to_string(), *nth);
        if pid == first && arguments.contains("\"begin") {
            by_loader = counts.iter().map(|((_, call), n)| (call.to_string(), *n)).collect();
        } else if pid == first && arguments.contains("\"end") {
            break;
        } else if pid != first || !by_loader.is_empty() {
            places.entry(place.clone()).or_default();
        }
        latest.insert(pid, place.clone());
        current = (!line.ends_with("<unfinished ...>")).then_some(place);
    }
    places.retain(|(call, nth), _| !LEFT_ALONE.contains(&call.as_str()) && by_loader.get(call).is_none_or(|n| nth > n));
    places
}

/// `/path/libnlmmap_preload.so(function+0x12) [0x3456]`
fn address(frame: &str) -> Option<u64> {
    let (_, rest) = frame.split_once("libnlmmap_preload.so(")?;
    u64::from_str_radix(rest.rsplit_once("[0x")?.1.strip_suffix(']')?, 16).ok()
}

/// "failures 0, descriptors 7, ...": all but the first number.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).skip(1).collect()
}

#[test]
fn places_are_read_from_a_record() {
    let record = "7 mmap(NULL, 1) = 0\n7 write(2, \"begin\\n\", 6) = 6\n7 mmap(NULL, 2) = 0\n > /x/libnlmmap_preload.so(map+0x1) [0x1f]\n > /x/y(z+0x2) [0x2]\n8 mmap(NULL, 1) = 0\n\
                  7 <... poll resumed>) = 0\n7 bind(3) = 0\n8 bind(3) = 0\n8 bind(3) = 0\n7 write(2, \"end\\n\", 4) = 4\n7 socket(1) = 3\n";
    let expected = [("bind", 1, None), ("bind", 2, None), ("mmap", 2, Some(0x1f))];
    let expected = expected.map(|(call, nth, at)| ((call.to_string(), nth), at.into_iter().collect()));
    assert_eq!(places(record), BTreeMap::from(expected));
}
