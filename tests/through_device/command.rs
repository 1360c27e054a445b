//! `nlmmap run --device` before the program starts, and the library when there is no node for it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::daemon::{NLMMAP, Place, output, uses_cuse};
use crate::support::{Build, Mode, client, compile, preload};

fn run(node: &std::path::Path, rest: &[&str]) -> Output {
    let mut command = Command::new(NLMMAP);
    command.args(["run", "--device"]).arg(node).args(rest).env("NLMMAP_PRELOAD", preload());
    output(&mut command)
}

#[track_caller]
fn refuses(node: &std::path::Path, cause: &str, cure: &str) {
    let result = run(node, &["--", "true"]);
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    assert_eq!(result.status.code(), Some(126), "{text}");
    assert!(text.contains(cause) && text.contains("cure: ") && text.contains(cure), "{text}");
}

#[test]
fn a_node_that_cannot_be_used_is_refused_before_the_program_starts() {
    let place = Place::new();
    refuses(&place.path("none"), "no such node", "nlmmap serve");
    let link = place.path("link");
    symlink(place.path("none"), &link).expect("a link");
    refuses(&link, "a link that leads nowhere", "start the daemon");
    refuses(place.directory.path(), "a directory", "name the node inside it");
    let file = place.path("file");
    fs::write(&file, "").expect("a file");
    refuses(&file, "not a node that nlmmap serves", "give the path");
    let daemon = place.start();
    let shown = run(&place.node(), &["--check", "--", "true"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains("  device   ") && text.contains(&place.name), "{text}");
    assert_eq!(run(&place.node(), &["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_program_without_its_node_is_told_as_without_netlink() {
    let place = Place::new();
    let gone = client("basic")
        .env("NLMMAP_DEVICE", place.path("gone").display().to_string())
        .log("warn")
        .only(Mode::Default)
        .run(Some(Mode::Default));
    assert!(gone.stderr.contains("socket(0): Address family not supported by protocol"), "{}", gone.describe());
    assert!(gone.stderr.contains("start the daemon (nlmmap serve)"), "{}", gone.describe());
}

#[test]
fn a_program_whose_daemon_is_killed_is_told_at_every_call() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = Command::new(NLMMAP);
    command.args(["run", "--device"]).arg(place.node()).arg("--").arg(compile("orphaned", Build::Plain));
    command.env("NLMMAP_PRELOAD", preload()).env("NLMMAP_LOG", "warn");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    child.stdin.take().expect("a pipe").write_all(b"on\n").expect("it reads");
    let result = child.wait_with_output().expect("a child of ours");
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{text}");
    // A character device goes with its daemon.
    let cause =
        if uses_cuse() { "no such node: start the daemon" } else { "the daemon behind this node is gone: start it" };
    assert!(text.contains(cause), "{text}");
}

/// Closing numbers that are none of ours costs no system call but its own, however many there are.
#[test]
fn numbers_that_are_closed_by_the_thousand_cost_nothing_more() {
    let place = Place::new();
    let daemon = place.start();
    let record = place.path("record");
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--trace=getpid", "--output"]).arg(&record).args([NLMMAP, "run", "--device"]);
    command.arg(place.node()).args(["--", "python3", "-c", "import os; os.closerange(3, 60000); print('closed')"]);
    let result = output(command.env("NLMMAP_PRELOAD", preload()));
    assert_eq!(result.stdout, b"closed\n", "{}", String::from_utf8_lossy(&result.stderr));
    let asked = fs::read_to_string(&record).expect("a record").lines().count();
    // Whoever finds Python may be several programs.
    assert!(asked < 2000, "{asked} times it was asked which process this is");
    daemon.stop();
}
