//! `nlmmap capture`, read by tshark.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::place::{NLMMAP, client, directory, eventually, files, ready};
use super::support::tshark::{packets, tshark};
use super::support::{Build, compile, preload};

fn capture(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(NLMMAP);
    command.arg("capture").args(words).env("NLMMAP_VIEW", dir);
    command
}

fn stop(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All of one program's, until there are `count` messages.
fn captured(dir: &Path, child: &Child, count: u32, fast: bool) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let name = file.path().to_str().expect("text");
    let words = ["-w", name, "--pid", &child.id().to_string(), "-c", &count.to_string(), "--seconds", "20"];
    let output = capture(dir, &words).output().expect("it starts");
    assert!(output.status.success() && said(&output).starts_with(&format!("nlmmap: {count} messages captured, ")));
    // At a leisurely rate it misses nothing.
    assert!(fast || said(&output).ends_with(" 0 missed\n"), "{}", said(&output));
    file
}

#[test]
fn route_is_decoded_both_ways() {
    let dir = directory();
    let child = ready(&mut client(dir.path(), &["busy", "50", "route"]));
    let file = captured(dir.path(), &child, 40, false);
    let packets = packets(file.path());
    assert_eq!(packets.len(), 40);
    // Errors are of no family.
    let is_error = |p: &&String| p.starts_with("netlink|rx frame ") && p.contains(" 52 bytes");
    assert_eq!(packets.iter().filter(is_error).count(), 10, "{packets:#?}");
    assert_eq!(packets.iter().filter(|p| p.starts_with("netlink:netlink-route|")).count(), 30, "{packets:#?}");
    let with = |text: &str| packets.iter().filter(|p| p.contains(text)).count();
    // Each request before its answer.
    assert_eq!((with("|tx frame "), with("|rx frame "), with(": VALID, ")), (20, 20, 20), "{packets:#?}");
    assert!(packets[0].contains("|tx frame ") && packets[1].contains("|rx frame "), "{packets:#?}");
    let text = tshark(file.path(), &["-V"]);
    for part in [
        "Get network interface info (18)",
        "Create network interface (16)",
        "Device name: lo",
        "Error code: No such device (-ENODEV)",
        "Family: Route (0x0000)",
        "Direction: Outbound",
        "Direction: Inbound",
        &format!("Interface name: {}.1", child.id()),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Malformed"), "{text}");
    // Nothing of the capture stays behind.
    assert_eq!(files(dir.path()), [format!("{}.1", child.id())]);
    stop(child);
}

#[test]
fn generic_is_decoded() {
    let dir = directory();
    let child = ready(&mut client(dir.path(), &["busy", "50", "generic"]));
    eventually("its second endpoint", || files(dir.path()).len() == 2);
    let file = captured(dir.path(), &child, 10, false);
    let text = tshark(file.path(), &["-V"]);
    for part in ["CTRL_CMD_GETFAMILY (3)", "CTRL_CMD_NEWFAMILY (1)", "Family Name: nlctrl", "Family: Generic (0x0010)"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Malformed"), "{text}");
    stop(child);
}

#[test]
fn queued_packets_and_their_verdicts_are_decoded() {
    let dir = directory();
    let rule = "iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";
    let client = compile("nfqueue", Build::Plain);
    let line =
        format!("ip link set lo up; {rule}; LD_PRELOAD={} exec {} accept 60000", preload().display(), client.display());
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", &line]).env("NLMMAP_VIEW", dir.path()).stdout(Stdio::null());
    let mut child = command.spawn().expect("unshare");
    eventually("its endpoint", || files(dir.path()) == [format!("{}.1", child.id())]);
    let file = captured(dir.path(), &child, 400, true);
    let text = tshark(file.path(), &["-V"]);
    for part in ["Netfilter packet queue (3)", "Type: Verdict (1)", "Verdict: ACCEPT (1)", "Type: Packet (0)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(packets(file.path()).iter().any(|p| p.contains(":udp")), "the packets themselves are decoded");
    assert!(child.wait().expect("it ends").success(), "all packets were judged, captured or not");
}

/// Messages that no frame holds are in the file whole; and a file that nobody reads costs captures, never messages.
#[test]
fn copies_are_whole_and_a_slow_writer_misses_captures_only() {
    let dir = directory();
    const MESSAGES: usize = 6000;
    let mut child = ready(&mut client(dir.path(), &["copies", &MESSAGES.to_string()]));
    let words = ["-w", "-", "--endpoint", &format!("{}.2", child.id())];
    let mut capture =
        capture(dir.path(), &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    eventually("it captures", || files(dir.path()).len() == 3);
    sleep(Duration::from_millis(100));
    child.stdin.as_mut().expect("a pipe").write_all(b"g").expect("it reads");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it speaks");
    assert_eq!(line, "done\n", "each message has come, though nobody reads the capture");
    let mut bytes = Vec::new();
    let mut out = capture.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || out.read_to_end(&mut bytes).map(|_| bytes));
    stop(child);
    let bytes = reader.join().expect("no panic").expect("it is read");
    let output = capture.wait_with_output().expect("it ends with the program");
    let text = said(&output);
    let numbers: Vec<usize> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [captured, missed] = numbers[..] else { panic!("{text}") };
    assert_eq!(captured + missed, MESSAGES, "{text}");
    assert!(captured > 500 && missed > 500, "{text}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("the file");
    let packets = packets(file.path());
    assert_eq!(packets.len(), captured);
    assert!(packets.iter().all(|p| p.contains(": COPY, 4000 bytes, group 3, ")), "{:?}", &packets[..5]);
    let lengths = tshark(file.path(), &["-T", "fields", "-e", "frame.cap_len", "-e", "frame.drop_count"]);
    let fields = lengths.lines().map(|line| line.split_once('\t').expect("two fields"));
    let (mut whole, mut told) = (0, 0);
    for (length, drops) in fields {
        whole += usize::from(length == "4016");
        told += drops.parse::<usize>().unwrap_or(0);
    }
    assert_eq!(whole, captured);
    assert!(told <= missed, "{told} of {missed}");
}

#[test]
fn losses_are_told() {
    let dir = directory();
    let mut child = client(dir.path(), &["lossy", "1", "wait"]).spawn().expect("it starts");
    eventually("its endpoints", || files(dir.path()).len() == 2);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let words =
        ["-w", file.path().to_str().expect("text"), "--endpoint", &format!("{}.2", child.id()), "--seconds", "3"];
    let mut capture = capture(dir.path(), &words).stderr(Stdio::piped()).spawn().expect("it starts");
    eventually("it captures", || files(dir.path()).len() == 3);
    sleep(Duration::from_millis(100));
    child.stdin.as_mut().expect("a pipe").write_all(b"g").expect("it reads");
    assert!(capture.wait().expect("it ends").success());
    let packets = packets(file.path());
    let losses = packets.iter().filter(|p| p.contains("losses before this (No buffer space available")).count();
    assert!(losses > 0, "{packets:#?}");
    stop(child);
}

/// The frame that a packet's comment names.
fn position(packet: &str, direction: &str) -> Option<u32> {
    packet.split_once(direction)?.1.split(':').next()?.parse().ok()
}

/// What a forked child does by its parent's endpoint is in that one's capture; its own endpoint is one more.
#[test]
fn forked_children_are_captured() {
    let dir = directory();
    let child = ready(&mut client(dir.path(), &["shared", "40"]));
    let parent = format!("{}.1", child.id());
    eventually("the child's own endpoint", || files(dir.path()).len() == 2);
    let own = files(dir.path()).into_iter().find(|name| *name != parent).expect("another");
    for id in [&parent, &own] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let name = file.path().to_str().expect("text");
        let output = capture(dir.path(), &["-w", name, "--endpoint", id, "-c", "20", "--seconds", "20"]).output();
        let output = output.expect("it starts");
        assert_eq!(said(&output), "nlmmap: 20 messages captured, 0 missed\n", "{id}");
        let packets = packets(file.path());
        let sent = packets.iter().filter(|p| p.contains("|tx frame ")).count();
        // Ten requests and their answers; a capture may begin, and end, between the two. Nothing is missing in between.
        assert!(packets.len() == 20 && (9..=11).contains(&sent), "{packets:#?}");
        for direction in ["|tx frame ", "|rx frame "] {
            let positions: Vec<u32> = packets.iter().filter_map(|p| position(p, direction)).collect();
            assert!(positions.windows(2).all(|two| two[1] == (two[0] + 1) % 16), "{packets:#?}");
        }
    }
    stop(child);
}

#[test]
fn what_cannot_be_captured_is_said() {
    let dir = directory();
    let output = capture(dir.path(), &["-w", "-", "--pid", "1"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("no such endpoint") && said(&output).contains("cure: nlmmap stat"),
        "{}",
        said(&output)
    );

    let child = ready(&mut client(dir.path(), &["hold", "1"]));
    let pid = child.id().to_string();
    // Others may not.
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "12345", "--clear-groups", NLMMAP, "capture", "-w", "-", "--pid", &pid]);
    let output = other.env("NLMMAP_VIEW", dir.path()).output().expect("setpriv");
    assert!(!output.status.success() && said(&output).contains("no such endpoint"), "{}", said(&output));
    // One at a time.
    let words = ["-w", "/dev/null", "--pid", &pid];
    let mut first = capture(dir.path(), &words).spawn().expect("it starts");
    eventually("it captures", || files(dir.path()).len() == 2);
    sleep(Duration::from_millis(50));
    let output = capture(dir.path(), &words).output().expect("it starts");
    let text = said(&output);
    assert!(
        !output.status.success() && text.contains(&format!("captured already: by process {}", first.id())),
        "{text}"
    );
    // What a killed one has left is in nobody's way.
    first.kill().expect("it lives");
    first.wait().expect("it ends");
    let output =
        capture(dir.path(), &["-w", "/dev/null", "--pid", &pid, "--seconds", "1"]).output().expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(files(dir.path()).len(), 1);
    stop(child);
}
