//! `nlmmap capture` of a daemon's open files, read by tshark.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, NLMMAP, Place, client, output, passes};
use crate::shown::{go, line, ready, shown, stop};
use crate::support::patient;
use crate::support::tshark::{packets, tshark};

fn capture(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(NLMMAP);
    command.arg("capture").args(words).args(["--name", &place.name, "--runtime-dir"]).arg(place.path("run"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Messages and misses of `N messages captured, M missed`.
fn counted(output: &Output) -> [usize; 2] {
    let text = said(output);
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers[..].try_into().unwrap_or_else(|_| panic!("{text}"))
}

/// The handle of an open file of this process.
fn handle(daemon: &Daemon<'_>, child: &Child, nth: usize) -> u64 {
    let stat = daemon.stat();
    let all = stat["endpoints"].as_array().expect("a list");
    let mut his = all.iter().filter(|entry| entry["pid"] == child.id());
    his.nth(nth).and_then(|entry| entry["handle"].as_u64()).expect("its open file")
}

#[test]
fn messages_of_open_files_are_decoded_both_ways() {
    let place = Place::new();
    let daemon = place.start();
    let child = ready(&place, &["busy", "50", "route"]);
    let other = ready(&place, &["busy", "50"]);
    let file = place.path("rings.pcapng");
    let name = file.to_str().expect("text");
    let words = ["-w", name, "--device", "--pid", &child.id().to_string(), "-c", "40", "--seconds", "60"];
    let result = output(&mut capture(&place, &words));
    assert!(result.status.success(), "{}", said(&result));
    assert_eq!(counted(&result), [40, 0], "{}", said(&result));
    let all = packets(&file);
    let with = |text: &str| all.iter().filter(|p| p.contains(text)).count();
    assert_eq!((all.len(), with("|tx frame "), with("|rx frame "), with(": VALID, ")), (40, 20, 20, 20), "{all:#?}");
    let text = tshark(&file, &["-V"]);
    for part in [
        "Get network interface info (18)",
        "Create network interface (16)",
        "Device name: lo",
        "Error code: No such device (-ENODEV)",
        &format!("Interface name: {}:{}", place.name, handle(&daemon, &child, 0)),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Malformed"), "{text}");
    // Nothing of another's.
    let id = format!("{}:{}", place.name, handle(&daemon, &other, 0));
    assert!(!text.contains(&id), "{text}");
    let result = output(&mut capture(&place, &["-w", name, "--endpoint", &id, "-c", "4", "--seconds", "60"]));
    assert_eq!(counted(&result), [4, 0]);
    assert!(tshark(&file, &["-V"]).contains(&format!("Interface name: {id}")));
    stop(child);
    stop(other);
    daemon.stop();
}

/// Messages that no frame holds are whole in the file, and a file that nobody reads costs captures, never messages.
#[test]
fn a_slow_writer_misses_captures_only() {
    const MESSAGES: usize = 4000;
    let place = Place::new();
    let daemon = place.start();
    let mut child = ready(&place, &["copies", &MESSAGES.to_string()]);
    let id = format!("{}:{}", place.name, handle(&daemon, &child, 1));
    let mut command = capture(&place, &["-w", "-", "--endpoint", &id]);
    let mut reading = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    daemon.says("captured from now on");
    go(&mut child);
    assert_eq!(line(&mut child), "done\n", "each message has come, though nobody reads the capture");
    let mut out = reading.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    stop(child);
    let bytes = reader.join().expect("no panic").expect("it is read");
    let result = reading.wait_with_output().expect("it ends with the open file");
    let [captured, missed] = counted(&result);
    assert_eq!(captured + missed, MESSAGES, "{}", said(&result));
    assert!(captured > 500 && missed > 500, "{}", said(&result));
    let file = place.path("copies.pcapng");
    std::fs::write(&file, bytes).expect("the file");
    let all = packets(&file);
    assert_eq!(all.len(), captured);
    assert!(all.iter().all(|p| p.contains(": COPY, 4000 bytes, group 3, ")), "{:?}", &all[..5]);
    let told = tshark(&file, &["-T", "fields", "-e", "frame.drop_count"]);
    let told: usize = told.lines().filter_map(|drops| drops.parse::<usize>().ok()).sum();
    assert!(told <= missed, "{told} of {missed}");
    daemon.stop();
}

/// What goes from worker to worker takes its capture along.
#[test]
fn a_capture_goes_where_the_socket_goes() {
    let place = Place::new();
    let daemon = place.start();
    let file = place.path("moves.pcapng");
    let words = ["-w", file.to_str().expect("text"), "--device"];
    let capturing = capture(&place, &words).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut command = client("device_move");
    let mut child =
        command.arg(place.node()).arg("wait").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    daemon.says("captured from now on");
    std::thread::sleep(Duration::from_millis(500));
    go(&mut child);
    assert!(child.wait().expect("it ends").success());
    daemon.wait_for_opens(0);
    daemon.stop();
    let result = capturing.wait_with_output().expect("it ends with the daemon");
    assert!(result.status.success(), "{}", said(&result));
    // Two hundred were received, of which half were sent by frames.
    assert_eq!(counted(&result), [300, 0], "{}", said(&result));
    let all = packets(&file);
    let with = |text: &str| all.iter().filter(|p| p.contains(text)).count();
    assert_eq!((with("|tx frame "), with("|rx frame ")), (100, 200));
}

#[test]
fn losses_are_told() {
    let place = Place::new();
    let daemon = place.start();
    let mut child = shown(&place, &["lossy", "1", "wait"]);
    let file = place.path("losses.pcapng");
    let words = ["-w", file.to_str().expect("text"), "--device"];
    let mut capturing = capture(&place, &words).stderr(Stdio::null()).spawn().expect("it starts");
    let until = Instant::now() + patient(60);
    while daemon.log().matches("captured from now on").count() < 3 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    go(&mut child);
    assert_eq!(line(&mut child), "ready\n");
    stop(child);
    kill(Pid::from_raw(capturing.id() as i32), Signal::SIGINT).expect("it lives");
    assert!(capturing.wait().expect("it ends").success());
    let all = packets(&file);
    let told = all.iter().filter(|p| p.contains("losses before this (No buffer space available")).count();
    assert!(told > 0, "{:#?}", &all[..all.len().min(20)]);
    daemon.stop();
}

/// Frames that a rule of policy decides about are not told to have been sent: their answers tell.
#[test]
fn judged_messages_are_told_apart() {
    for (granted, answer) in
        [("getlink", "Device name: lo"), ("getaddr", "Error code: Operation not permitted (-EPERM)")]
    {
        let rule = format!("[[policy.rule]]\nusers = [\"*\"]\nfamily = \"route\"\nsend = [\"{granted}\"]\n");
        let place = Place::with_config(&format!("[policy]\nunmatched = \"deny\"\n{rule}"));
        let daemon = place.start();
        let child = ready(&place, &["busy", "50", "route"]);
        let file = place.path("judged.pcapng");
        let words = ["-w", file.to_str().expect("text"), "--device", "-c", "20", "--seconds", "60"];
        let result = output(&mut capture(&place, &words));
        assert_eq!(counted(&result), [20, 0], "{}", said(&result));
        let all = packets(&file);
        let judged = all.iter().filter(|p| p.contains("|tx frame ") && p.contains(": judged by policy, ")).count();
        assert_eq!(judged, 10, "{all:#?}");
        let text = tshark(&file, &["-V"]);
        assert!(text.contains(answer), "{text}");
        stop(child);
        daemon.stop();
    }
}

#[test]
fn what_cannot_be_captured_is_said() {
    let place = Place::new();
    let refused = |command: &mut Command, what: &str, cure: &str| {
        let result = output(command);
        let text = said(&result);
        assert!(result.status.code() == Some(1) && text.contains(what) && text.contains(cure), "{text}");
    };
    refused(&mut capture(&place, &["-w", "/dev/null", "--device"]), "cannot be asked", "start the daemon");
    let daemon = place.start();
    let child = ready(&place, &["busy", "50"]);
    let id = format!("{}:{}", place.name, handle(&daemon, &child, 0));
    refused(
        &mut capture(&place, &["-w", "/dev/null", "--endpoint", &format!("{}:999", place.name)]),
        "no such endpoint",
        "nlmmap stat",
    );
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "4242", "--clear-groups", NLMMAP, "capture", "-w", "-", "--device", "--name", &place.name]);
    refused(other.arg("--runtime-dir").arg(place.path("run")), "Permission denied", "run it as root");
    // One at a time, and a killed one is in nobody's way.
    let words = ["-w", "/dev/null", "--endpoint", &id];
    let mut first = capture(&place, &words).spawn().expect("it starts");
    daemon.says("captured from now on");
    refused(&mut capture(&place, &words), "is captured already", "");
    first.kill().expect("it lives");
    first.wait().expect("it ends");
    daemon.says("captured no more");
    let result = output(capture(&place, &words).args(["-c", "2", "--seconds", "60"]));
    assert_eq!(counted(&result), [2, 0]);
    stop(child);
    // More than there may be at a time: the others are left out, and said to be.
    let child = ready(&place, &["many", "70"]);
    let result = output(capture(&place, &["-w", "/dev/null", "--device", "--seconds", "2"]).stdin(Stdio::null()));
    assert!(said(&result).contains("nlmmap: 7 open files of the daemon were too many"), "{}", said(&result));
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    stop(child);
    daemon.stop();
}
