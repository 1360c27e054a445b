//! A directory of a test's own, clients that show their endpoints in it, and the files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::support::{Build, compile, preload};

pub const NLMMAP: &str = env!("CARGO_BIN_EXE_nlmmap");

pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().expect("a directory")
}

/// The client `shown` with the library, showing itself in `dir`.
pub fn client(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(compile("shown", Build::Plain));
    command
        .args(words)
        .env("LD_PRELOAD", preload())
        .env("NLMMAP_VIEW", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Starts it, and waits until it is ready.
pub fn ready(command: &mut Command) -> Child {
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut line).expect("it speaks");
    assert_eq!(line, "ready\n", "{:?}", child.try_wait());
    child.stdout = Some(out.into_inner());
    child
}

/// Names of the files, sorted.
pub fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory");
    let mut all: Vec<_> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_file_comes_and_goes_with_its_endpoint() {
    let dir = directory();
    let mut child = ready(&mut client(dir.path(), &["hold", "3"]));
    let name = format!("{}.1", child.id());
    assert_eq!(files(dir.path()), [name.as_str()]);
    let about = fs::metadata(dir.path().join(name)).expect("the file");
    assert_eq!((about.len(), about.mode() & 0o777), (4096, 0o600));
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
    assert_eq!(files(dir.path()), [""; 0]);

    let mut child = ready(&mut client(dir.path(), &["close", "3"]));
    assert_eq!(files(dir.path()), [""; 0], "the endpoint is over, the process is not");
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn what_a_kill_leaves_goes_with_the_next_endpoint() {
    let dir = directory();
    let mut child = client(dir.path(), &["kill", "3"]).spawn().expect("it starts");
    child.wait().expect("it ends");
    assert_eq!(files(dir.path()), [format!("{}.1", child.id())]);
    let mut next = ready(&mut client(dir.path(), &["hold", "1"]));
    assert_eq!(files(dir.path()), [format!("{}.1", next.id())]);
    drop(next.stdin.take());
    next.wait().expect("it ends");
}

#[test]
fn a_daemon_is_seen_after_its_parent_has_ended() {
    let dir = directory();
    let mut child = ready(&mut client(dir.path(), &["daemon", "2"]));
    child.wait_holding();
    let name = format!("{}.1", child.id());
    assert_eq!(files(dir.path()), [name.as_str()]);
    // Another one's sweep leaves it alone.
    let mut other = ready(&mut client(dir.path(), &["hold", "1"]));
    assert!(files(dir.path()).contains(&name));
    drop(other.stdin.take());
    other.wait().expect("it ends");
    drop(child.stdin.take());
    eventually("the daemon has ended, its file has not", || files(dir.path()).is_empty());
}

#[test]
fn a_fork_child_has_its_own_and_leaves_its_parents() {
    let dir = directory();
    for way in ["fork", "vfork", "fork", "fork"] {
        let output = client(dir.path(), &[way, "2"]).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(files(dir.path()), [""; 0], "{way}");
    }
}

#[test]
fn another_program_in_the_process_takes_the_names_over() {
    let dir = directory();
    let mut child = ready(&mut client(dir.path(), &["exec", "2", "hold"]));
    assert_eq!(files(dir.path()), [format!("{}.1", child.id())]);
    drop(child.stdin.take());
    child.wait().expect("it ends");
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn it_can_be_switched_off() {
    let dir = directory();
    let runtime = directory();
    let mut command = client(dir.path(), &["hold", "1"]);
    command.env("NLMMAP_VIEW", "off").env("XDG_RUNTIME_DIR", runtime.path());
    let mut child = ready(&mut command);
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("its maps");
    assert!(!maps.contains(&format!("{}.1", child.id())), "{maps}");
    drop(child.stdin.take());
    child.wait().expect("it ends");
}

/// The library trusts no directory that others may write to, no link, and no file of others; rings work all the same.
#[test]
fn what_others_could_have_put_there_is_not_used() {
    let outside = directory();
    type Spoil = fn(&Path, &Path);
    let cases: [(&str, Spoil); 3] = [
        ("open to others", |dir, _| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("its mode")),
        ("of another user", |dir, _| std::os::unix::fs::chown(dir, Some(12345), None).expect("its owner")),
        ("a link", |dir, outside| {
            fs::remove_dir(dir).expect("it is empty");
            symlink(outside, dir).expect("a link");
        }),
    ];
    for (what, spoil) in cases {
        let parent = directory();
        let dir = parent.path().join("view");
        fs::DirBuilder::new().create(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its mode");
        spoil(&dir, outside.path());
        let mut child = ready(&mut client(&dir, &["hold", "1"]));
        assert_eq!(files(&dir), [""; 0], "{what}");
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
}

/// By a file of its user's, those without its capabilities would have a say in what it does.
#[test]
fn a_process_with_more_rights_than_its_user_is_not_shown_unasked() {
    let place: PathBuf = "/tmp/nlmmap-12345".into();
    let _ = fs::remove_dir_all(&place);
    for (caps, shown) in [("+net_admin", false), ("-all", true)] {
        let program = compile("shown", Build::Plain);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "12345", "--clear-groups", "--inh-caps", caps, "--ambient-caps", caps]);
        command.arg("env").arg(format!("LD_PRELOAD={}", preload().display())).arg(program).args(["hold", "1"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ready(&mut command);
        let there = place.is_dir() && !files(&place).is_empty();
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
        assert_eq!(there, shown, "{caps}");
    }
    let _ = fs::remove_dir_all(&place);
}

pub trait Holding {
    fn wait_holding(&mut self) -> ExitStatus;
}

impl Holding for Child {
    /// Waits for the end, with its input open.
    fn wait_holding(&mut self) -> ExitStatus {
        let stdin = self.stdin.take();
        let status = self.wait().expect("it ends");
        self.stdin = stdin;
        status
    }
}

/// Endpoints, and what their files cost: a handful of system calls when each is made, none for messages.
#[test]
fn messages_cost_no_system_call() {
    let calls = |view: &str, times: &str| -> u64 {
        let mut command = Command::new("strace");
        // Not those by which threads wait for each other.
        let kinds = "trace=/^(open|mk|f?stat|newf|fallocate|getdents|unlink|prctl|get.uid|capget|.*map|p?read|close)";
        command
            .args(["-c", "-U", "calls,name", "-e", kinds])
            .arg("-E")
            .arg(format!("LD_PRELOAD={}", preload().display()));
        command.arg(compile("shown", Build::Plain)).args(["return", times]).env("NLMMAP_VIEW", view);
        let output = command.process_group(0).output().expect("strace (apt install strace)");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let total = text.lines().find(|line| line.trim_end().ends_with("total")).unwrap_or_else(|| panic!("{text}"));
        total.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    let dir = directory();
    let dir = dir.path().to_str().expect("text");
    let more = |times| calls(dir, times).saturating_sub(calls("off", times));
    let (once, often) = (more("10"), more("1010"));
    assert!(once > 0 && once <= 24, "an endpoint's file takes {once} calls");
    assert!(often.abs_diff(once) <= 2, "{once} calls with 10 messages, {often} with 1010");
}
