//! Every place that calls the kernel in the commands that look on fails in its turn: `stat`, `capture`, `top`, `run --summary` and
//! `run --device`, beside a daemon and a program that go on. A command does what it is for, or says why not; those whom it looks at lose
//! nothing; and it leaves nothing with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answers::hows;
use super::places::Places;
use super::plan::{Entry, Plan, Try};
use super::scene::Witness;
use super::tracer::{Fault, How, Record, Tracer};
use crate::attacks::Beside;
use crate::daemon::{Daemon, NLMMAP, Place, client, is_about_ring_files};
use crate::support::{Build, compile, need_root, patient, preload};

/// Whose calls are theirs. What judges programs before they are run refuses with a cause (tests/cli).
const COMMANDS: &[&str] = &[
    "nlmmap::cli::capture",
    "nlmmap::cli::run::node",
    "nlmmap::cli::run::summary",
    "nlmmap::cli::stat",
    "nlmmap::cli::top",
    "nlmmap::see::",
    "nlmmap::serve::capture::Channel",
    "nlmmap::serve::stat::ask",
    "nlmmap::sys::change_bits",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Looker {
    Stat,
    Capture,
    Top,
    Summary,
    Device,
}

const LOOKERS: [Looker; 5] = [Looker::Stat, Looker::Capture, Looker::Top, Looker::Summary, Looker::Device];

/// A daemon and a program with the library, each with a stream that is looked at.
struct Scene<'a> {
    daemon: Daemon<'a>,
    witness: Witness,
    program: Child,
}

fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("view")).expect("a directory");
    fs::set_permissions(place.path("view"), fs::Permissions::from_mode(0o700)).expect("its mode");
    place
}

impl Scene<'_> {
    fn start(place: &Place) -> Scene<'_> {
        let daemon = place.start();
        let mut witness = Command::new("unshare");
        witness.arg("--net").arg(client("device_faults").get_program()).arg(place.node()).arg("witness");
        let mut witness = Beside::start(witness.stdin(Stdio::piped()));
        assert_eq!(witness.line(), "ready\n", "{}", daemon.log());
        let words = File::create(place.path("program")).expect("a file");
        let mut program = Command::new("unshare");
        program.args(["--net", NLMMAP, "run", "--"]).arg(compile("supervised_faults", Build::Plain)).arg("witness");
        program.env("NLMMAP_VIEW", place.path("view")).env("NLMMAP_PRELOAD", preload());
        let program = program.stdout(words).spawn().expect("it starts");
        let until = Instant::now() + patient(20);
        while fs::read_to_string(place.path("program")).unwrap_or_default() != "ready\n" {
            assert!(Instant::now() < until, "the program with the library is not ready");
            thread::sleep(Duration::from_millis(2));
        }
        Scene { daemon, witness: Witness(witness), program }
    }

    /// Both streams were whole.
    fn ends_whole(mut self) -> Result<(), String> {
        let words = self.daemon.place.path("program");
        self.witness.ends_whole()?;
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.program.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let status = self.program.wait().expect("it ends");
        let words = fs::read_to_string(words).unwrap_or_default();
        let is_whole = status.success() && words.trim_end().ends_with(" messages");
        if is_whole { Ok(()) } else { Err(format!("the program with the library: {status}: {words}")) }
    }
}

/// How a command has ended.
struct End {
    code: Result<i32, String>,
    fired: bool,
    record: Record,
    out: String,
    err: String,
}

/// A terminal's two ends.
fn terminal() -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 };
    let none = std::ptr::null_mut();
    // SAFETY: two numbers are written; no name and no settings are given.
    let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, none, std::ptr::null(), &raw const size) };
    assert_eq!(made, 0, "a terminal");
    // SAFETY: just made, and nobody else's.
    unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

fn command(looker: Looker, place: &Place) -> Command {
    let mut command = Command::new(NLMMAP);
    let daemons = |command: &mut Command| {
        command.args(["--name", &place.name, "--runtime-dir"]).arg(place.path("run"));
    };
    match looker {
        Looker::Stat => drop(command.args(["stat", "--json", "--runtime-dir"]).arg(place.path("run"))),
        Looker::Capture => {
            command.args(["capture", "-c", "6", "--seconds", "3", "-w", "/dev/null"]);
            daemons(&mut command);
        }
        Looker::Top => {
            command.args(["top", "--interval", "0.1"]);
            daemons(&mut command);
        }
        Looker::Summary => drop(command.args(["run", "--summary", "--"]).arg(compile("basic", Build::Plain))),
        Looker::Device => {
            command.args(["run", "--device"]).arg(place.node()).arg("--").arg(compile("basic", Build::Plain));
        }
    }
    command.env("NLMMAP_VIEW", place.path("view")).env("NLMMAP_PRELOAD", preload()).env("TERM", "xterm");
    command
}

fn look(looker: Looker, place: &Place, places: &Arc<Places>, record: bool, fault: Option<Fault>) -> End {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let at = |name: &str| place.path(&format!("{name}.{number}"));
    let mut command = command(looker, place);
    command.stdin(Stdio::null()).stderr(File::create(at("err")).expect("a file"));
    command.stdout(File::create(at("out")).expect("a file"));
    let mut screen = None;
    if looker == Looker::Top {
        let (master, slave) = terminal();
        command.stdin(slave.try_clone().expect("the terminal")).stdout(slave);
        let mut shown = master.try_clone().expect("the terminal");
        thread::spawn(move || while shown.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {});
        screen = Some(master);
    }
    let mut tracer = Tracer::start(command, places.clone(), record, fault, None);
    let (begin, limit) = (Instant::now(), patient(20));
    let (code, record) = loop {
        if let Some(end) = tracer.ended() {
            break end;
        }
        if begin.elapsed() > limit {
            break (Err("it does not end".into()), Record::new());
        }
        if begin.elapsed() > Duration::from_millis(300)
            && let Some(mut terminal) = screen.take()
        {
            let _ = terminal.write_all(b"q");
            screen = Some(terminal);
        }
        thread::sleep(Duration::from_millis(5));
    };
    let read = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
    End { code, fired: tracer.has_fired(), record, out: read("out"), err: read("err") }
}

/// What is wrong with its end.
fn complaint(looker: Looker, end: &End, place: &Place) -> Option<String> {
    let told = end.err.lines().any(|line| line.starts_with("nlmmap: "));
    let done = match looker {
        Looker::Stat => end.out.contains("supervised_faul"),
        Looker::Capture => end.err.contains(" messages captured"),
        Looker::Summary => end.err.contains("basic"),
        Looker::Top | Looker::Device => true,
    };
    let fine = match end.code {
        Ok(0) => done || told,
        Ok(1 | 126) => told,
        // A program without its node, or whose rings are refused.
        Ok(3) => matches!(looker, Looker::Device | Looker::Summary),
        _ => false,
    };
    let left: Vec<_> = fs::read_dir(place.path("view")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    let left: Vec<_> = left.iter().filter(|path| path.extension().is_some_and(|end| end == "tap")).collect();
    // Another's capture may be under way.
    if fine && (left.is_empty() || looker != Looker::Capture) {
        return None;
    }
    Some(format!("{looker:?} ended with {:?}, left {left:?}\nstdout: {}\nstderr: {}", end.code, end.out, end.err))
}

/// What is not made to fail, and why.
const NOT_FAILED: &[Entry] = &[
    ("crates/ring/src/endpoint.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/endpoint/rings.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/lock.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/rx.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/rx/batch.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/rx/bell.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/rx/congestion.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/rx/single.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/store.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/tap.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/tx.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/tx/joining.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/tx/refusal.rs", "", "", "the engine's: a command has no rings"),
    ("crates/ring/src/tx/round.rs", "", "", "the engine's: a command has no rings"),
    ("src/cli/capture.rs", "main", "isatty", "a capture to standard output: see.rs"),
    ("src/cli/run/node.rs", "check", "getcwd", "a node by a relative path: its failure is told"),
    ("src/cli/run/node.rs", "not_opened", "", "finds the words for another failure"),
    ("src/cli/run/node.rs", "may_open", "", "finds the words for another failure"),
    ("src/cli/run/summary.rs", "Place::make", "", "a summary to a file, and what is taken away behind another failure"),
    ("src/cli/run/summary.rs", "Place::watch", "write", "a summary to a file: see.rs"),
    ("src/cli/run/summary.rs", "Place::fail", "", "behind another failure"),
    ("src/cli/run/summary.rs", "attend", "kill", "a signal for the program: see.rs"),
    ("src/cli/run/summary.rs", "leave", "", "a program that a signal has ended: see.rs"),
    ("src/see/live/thread.rs", "is_alive", "", "a capture that goes on for longer than a moment: see.rs"),
    (
        "src/serve/capture.rs",
        "Channel::is_open",
        "",
        "a capture that goes on for longer than a moment: tests/device/capture.rs",
    ),
    ("src/serve/stat/ask.rs", "silent", "", "finds the words for a daemon that does not answer"),
    ("src/see/place.rs", "is_unfinished", "", "files that others have left: see.rs"),
    ("src/see/place.rs", "look_beside", "unlink", "files that others have left: see.rs"),
    ("src/see/tapped.rs", "start", "statx stat64", "what another captures: see.rs"),
    ("src/see/tapped.rs", "begin", "fchown", "root's capture of another's program: see.rs"),
    ("src/see/tapped.rs", "reader", "pread64", "what another captures: see.rs"),
    ("src/see/tapped.rs", "::drop", "unlink", "the next capture of the same takes it away"),
    ("src/cli/top.rs", "watch", "", "keys of a terminal, which it loses otherwise: see.rs"),
];

#[test]
fn each_place_of_the_commands_fails() {
    need_root();
    if is_about_ring_files() {
        return;
    }
    let begin = Instant::now();
    let places = Arc::new(Places::of(NLMMAP, COMMANDS));
    let plan = Plan::new(places.clone(), NOT_FAILED);
    let (here, mut known, mut tries, mut seen) = (place(), BTreeSet::new(), BTreeMap::new(), Vec::new());
    let scene = Scene::start(&here);
    for looker in LOOKERS {
        let end = look(looker, &here, &places, true, None);
        if let Some(text) = complaint(looker, &end, &here).filter(|_| end.code != Ok(0)) {
            panic!("without failures {text}");
        }
        println!("{looker:?}: {:?}", end.code);
        tries.insert(looker, plan.new_in(&end.record, &mut known));
        seen.push(end.record);
    }
    println!("{} places, recorded after {:?}", places.all().len(), begin.elapsed());
    let mut all: Vec<(Looker, &Try, How)> = Vec::new();
    for (looker, whats) in &tries {
        for what in whats {
            all.extend(hows(what.call, all.len()).into_iter().map(|how| (*looker, what, how)));
        }
    }
    // One captures at a time.
    let (captures, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(looker, _, _)| *looker == Looker::Capture);
    thread::scope(|scope| {
        let each = |all: &[(Looker, &Try, How)]| {
            for (looker, what, how) in all {
                let end = look(*looker, &here, &places, false, Some(what.fault(&places, *how)));
                if end.fired {
                    plan.has_failed(what);
                }
                if let Some(text) = complaint(*looker, &end, &here) {
                    plan.complain(what, *how, &text, "");
                }
            }
        };
        scope.spawn(move || each(&captures));
        each(&others);
    });
    if let Err(text) = scene.ends_whole() {
        plan.note(text);
    }
    println!("done after {:?}", begin.elapsed());
    plan.judge(&seen, &known);
}
