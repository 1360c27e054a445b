//! `nlmmap run --summary`

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::place::{Holding, NLMMAP, directory, files, ready};
use super::support::{Build, compile, preload};
use serde_json::Value;

fn run(dir: &Path, form: &str, words: &[&str]) -> Command {
    let mut command = Command::new(NLMMAP);
    // Root's pages lie in /run: a user of its own has its own directory, and the test too.
    command.env("NLMMAP_PRELOAD", preload()).env_remove("LD_PRELOAD").env_remove("NLMMAP_VIEW");
    command.arg("run").arg(format!("--summary={form}")).arg("--summary-file").arg(dir.join("summary"));
    command.arg("--").arg(compile("shown", Build::Plain)).args(words).stdin(Stdio::null());
    command
}

fn json(words: &[&str]) -> (Output, Value) {
    let dir = directory();
    let output = run(dir.path(), "json", words).output().expect("it starts");
    let text = std::fs::read_to_string(dir.path().join("summary")).expect("the summary");
    (output, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

/// Endpoints, frames received and frames sent altogether.
fn sums(summary: &Value) -> (usize, u64, u64) {
    let number = |name: &str| summary["total"][name].as_u64().expect("a number");
    (
        summary["endpoints"].as_array().expect("a list").len(),
        number("rx_frames") + number("rx_copies"),
        number("tx_frames"),
    )
}

#[test]
fn every_end_is_summed_up() {
    for (way, code, endpoints, messages) in [
        ("return", 0, 1, 5),
        ("_exit", 7, 1, 5),
        ("close", 0, 1, 5),
        ("fork", 0, 2, 15),
        ("vfork", 0, 1, 10),
        ("exec", 0, 2, 10),
        ("spawn", 0, 2, 10),
    ] {
        let (output, summary) = json(&[way, "5"]);
        assert_eq!(output.status.code(), Some(code), "{way}: {output:?}");
        assert_eq!(sums(&summary), (endpoints, messages, messages), "{way}: {summary}");
        assert_eq!(summary["exit_status"], code, "{way}");
    }
}

#[test]
fn a_crash_is_summed_up_and_ends_as_the_program_did() {
    use std::os::unix::process::ExitStatusExt;
    for (way, signal, name) in [("kill", 9, "SIGKILL"), ("abort", 6, "SIGABRT")] {
        let (output, summary) = json(&[way, "5"]);
        assert_eq!(output.status.signal(), Some(signal), "{way}");
        assert_eq!((sums(&summary), &summary["signal"]), ((1, 5, 5), &Value::from(name)), "{summary}");
    }
}

#[test]
fn endpoints_beyond_those_told_apart_are_added_up() {
    let (_, summary) = json(&["many", "60"]);
    let (endpoints, received, sent) = sums(&summary);
    assert!(endpoints <= 49 && endpoints > 40, "{endpoints}");
    assert_eq!((received, sent), (120, 120));
}

#[test]
fn losses_come_with_their_cure() {
    let dir = directory();
    let output = run(dir.path(), "text", &["lose", "1"]).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = std::fs::read_to_string(dir.path().join("summary")).expect("the summary");
    assert!(text.contains("sockets       2 with rings (route, usersock)"), "{text}");
    assert!(text.contains("the socket overflowed") && text.contains("cure: ask for "), "{text}");
    assert!(!text.contains("overruns      0\n"), "{text}");
}

#[test]
fn a_program_without_rings_is_told_so() {
    let mut command = Command::new(NLMMAP);
    command.env("NLMMAP_PRELOAD", preload()).args(["run", "--summary", "--", "sh", "-c", "exit 3"]);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3));
    assert!(text.contains("exit status 3") && text.contains("no ring was set"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no colour");
}

/// A wish that is sent to nlmmap by somebody is the program's.
#[test]
fn signals_are_handed_on() {
    let dir = directory();
    let mut command = run(dir.path(), "json", &["hold", "2"]);
    let mut child = ready(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    sleep(Duration::from_millis(50));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it lives");
    use std::os::unix::process::ExitStatusExt;
    let status = child.wait_holding();
    assert_eq!(status.signal(), Some(15), "{status:?}");
    let text = std::fs::read_to_string(dir.path().join("summary")).expect("the summary");
    assert!(text.contains("\"signal\":\"SIGTERM\""), "{text}");
    assert_eq!(files(dir.path()), ["summary"]);
}

#[test]
fn a_summary_that_cannot_be_written_is_said_before_the_program_runs() {
    let mut command = Command::new(NLMMAP);
    command.env("NLMMAP_PRELOAD", preload()).args([
        "run",
        "--summary",
        "--summary-file",
        "/nowhere/x",
        "--",
        "echo",
        "ran",
    ]);
    let output = command.output().expect("it starts");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(126), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/x: No such file"));
}
