//! A shell under a supervisor, both under the tracer; those whom the shell starts while one of the supervisor's calls fails, and what they
//! and it are to be like then.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::gate::Gate;
use super::places::Places;
use super::tracer::{End, Fault, How, Kind, Tracer};
use crate::support::{Build, Outcome, compile, patient};

pub const NLMMAP: &str = env!("CARGO_BIN_EXE_nlmmap");
/// Seconds that a visit takes at most: a breakpoint at each place makes it slow.
const VISIT: u64 = 40;

/// A client: its name in `tests/clients`, and its argument.
pub type Visitor = (&'static str, &'static str);

/// The shell, and what it writes.
pub struct Scene {
    directory: tempfile::TempDir,
    pub tracer: Tracer,
    pub ready: bool,
    words: File,
    witness: Option<i32>,
}

/// Reads lines, and does what they say.
const SHELL: &str = "echo 0 >status.0; while read -r number line; do eval \"$line\"; echo $? >status.new; \
                     mv status.new status.$number; done";

impl Scene {
    /// Starts it, and waits until the shell takes lines or all has ended.
    pub fn start(places: &Arc<Places>, record: bool, first: Option<Fault>) -> Scene {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("view")).expect("a directory");
        fs::set_permissions(at("view"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("its mode");
        let (input, words) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let mut command = Command::new(NLMMAP);
        command.args(["run", "--via", "supervisor", "--log", "info", "--", "sh", "-c", SHELL]);
        command.current_dir(directory.path()).env("NLMMAP_VIEW", at("view")).stdin(Stdio::from(input));
        command.stdout(Stdio::null()).stderr(File::create(at("log")).expect("a log file"));
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from));
        }
        let tracer = Tracer::start(command, places.clone(), record, first, Some(Gate::of(places)));
        let mut scene = Scene { directory, tracer, ready: false, words: File::from(words), witness: None };
        let until = Instant::now() + patient(30);
        while Instant::now() < until && !scene.ready && scene.tracer.ended().is_none() {
            scene.ready = scene.at("status.0").exists();
            thread::sleep(Duration::from_millis(1));
        }
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        self.read("log")
    }

    pub fn supervisor(&self) -> i32 {
        let processes = self.tracer.processes();
        processes.iter().find(|(kind, _)| *kind == Kind::Supervisor).map_or(0, |(_, pid)| *pid)
    }

    /// The shell does this; its status, when it has one in time.
    fn does(&mut self, line: &str) -> Option<i32> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        writeln!(self.words, "{number} {line}").expect("the shell reads");
        let (status, until) = (self.at(&format!("status.{number}")), Instant::now() + patient(VISIT + 5));
        while Instant::now() < until {
            if let Ok(text) = fs::read_to_string(&status) {
                let _ = fs::remove_file(&status);
                return text.trim().parse().ok();
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    pub fn visit(&mut self, (name, argument): Visitor) -> Outcome {
        let program = compile(name, Build::Static);
        let seconds = patient(VISIT).as_secs();
        let line = format!("timeout -s KILL {seconds} {} {argument} >stdout 2>stderr </dev/null", program.display());
        let code = self.does(&line);
        let signal = code.filter(|code| *code > 128).map(|code| code - 128);
        let timed_out = code.is_none();
        let code = code.filter(|code| *code <= 128);
        Outcome { code, signal, timed_out, stdout: self.read("stdout"), stderr: self.read("stderr") }
    }

    /// What is wrong with the end of a visitor while something failed, or with its supervisor.
    pub fn complaint(&mut self, visitor: Visitor, how: How, outcome: &Outcome) -> Option<String> {
        let told = outcome.stderr.lines().any(|line| line.contains(": "));
        let fine = match (outcome.code, outcome.signal) {
            (Some(0), _) => true,
            // Refused rings, or given up, and told why.
            (Some(3 | 4), _) => told,
            (None, Some(libc::SIGKILL)) => how == How::Killed,
            // One of its own was killed.
            (Some(1), _) => how == How::Killed && outcome.stderr.contains("ended with 0x9"),
            _ => false,
        };
        if !fine {
            return Some(format!("{visitor:?} {}", outcome.describe()));
        }
        let crashes = self.tracer.crashes();
        if !crashes.is_empty() {
            return Some(format!("{}; {visitor:?} {}", crashes.join("; "), outcome.describe()));
        }
        self.tracer.ended().map(|(end, _)| format!("all has ended with {end:?}"))
    }

    /// A stream that is to be whole, whoever else has a failure.
    pub fn begin_witness(&mut self) {
        let program = compile("supervised_faults", Build::Static);
        let begun = self.does(&format!("{} witness >witness 2>&1 & echo $! >witness.pid", program.display()));
        assert_eq!(begun, Some(0), "{}", self.log());
        let until = Instant::now() + patient(20);
        while self.read("witness") != "ready\n" {
            assert!(Instant::now() < until, "the witness: {}\n{}", self.read("witness"), self.log());
            thread::sleep(Duration::from_millis(1));
        }
        let pid: i32 = self.read("witness.pid").trim().parse().expect("a number");
        self.tracer.spare(vec![pid]);
        self.witness = Some(pid);
    }

    /// It has had everything, in order.
    pub fn end_witness(&mut self) -> Result<(), String> {
        let Some(pid) = self.witness.take() else { return Ok(()) };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let status = self.does(&format!("wait {pid}"));
        let words = self.read("witness");
        let is_whole = status == Some(0) && words.trim_end().ends_with(" messages");
        if is_whole { Ok(()) } else { Err(format!("the witness: {status:?}: {words}")) }
    }

    /// A client that sleeps in `epoll_wait` loses its supervisor: its status.
    pub fn loses_its_supervisor(&mut self) -> Result<(), String> {
        let program = compile("supervised_faults", Build::Static);
        self.does(&format!("{} epoll >sleeper 2>&1 & echo $! >sleeper.pid", program.display()));
        let until = Instant::now() + patient(20);
        while !self.read("sleeper").starts_with("ready\n") {
            if Instant::now() > until {
                return Err(format!("the sleeper: {}", self.read("sleeper")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        let _ = kill(Pid::from_raw(self.supervisor()), Signal::SIGKILL);
        let status = self.does(&format!("wait {}", self.read("sleeper.pid").trim()));
        if status == Some(42) { Ok(()) } else { Err(format!("the sleeper: {status:?}: {}", self.read("sleeper"))) }
    }

    /// No more lines come: waits until all have ended.
    pub fn end(&mut self) -> Option<End> {
        let (_, none) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        self.words = File::from(none);
        let until = Instant::now() + patient(30);
        while Instant::now() < until {
            if let Some(end) = self.tracer.ended() {
                return Some(end);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// What the supervisor has of what it may have left.
    pub fn held(&self) -> Held {
        let pid = self.supervisor();
        let entries = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let is_shared = |line: &&str| line.split(' ').nth(1).is_some_and(|how| how.ends_with('s'));
        Held {
            processes: self.tracer.processes().len(),
            threads: entries("task"),
            descriptors: entries("fd"),
            mappings: maps.lines().filter(is_shared).count(),
            pages: fs::read_dir(self.at("view")).map_or(0, Iterator::count),
        }
    }

    /// Waits until it has no more than before.
    pub fn at_rest(&self, before: &Held) -> Result<(), String> {
        let until = Instant::now() + patient(10);
        loop {
            let now = self.held();
            if now.fits(before) {
                return Ok(());
            }
            if Instant::now() > until {
                let pid = self.supervisor();
                let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                let links: Vec<PathBuf> = links.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
                return Err(format!("something is left: before {before:?}, now {now:?}: {links:?}"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The directory in which its sockets are shown is empty.
    pub fn is_clean(&self) -> Result<(), String> {
        let left: Vec<_> = fs::read_dir(self.at("view")).into_iter().flatten().flatten().map(|e| e.path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    }
}

/// What processes have.
#[derive(Clone, Debug)]
pub struct Held {
    processes: usize,
    threads: usize,
    descriptors: usize,
    mappings: usize,
    pages: usize,
}

impl Held {
    fn fits(&self, before: &Held) -> bool {
        self.processes <= before.processes
            && self.threads <= before.threads
            && self.descriptors <= before.descriptors
            && self.mappings <= before.mappings
            && self.pages <= before.pages
    }
}
