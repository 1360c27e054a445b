//! `nlmmap stat` of processes.

use std::process::{Command, Output};

use super::place::{NLMMAP, client, directory, ready};
use serde_json::Value;

fn stat(dir: &std::path::Path, form: &str) -> (Output, String) {
    let mut command = Command::new(NLMMAP);
    command.args(["stat", form, "--runtime-dir"]).arg(dir.join("none")).env("NLMMAP_VIEW", dir);
    let output = command.output().expect("it starts");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    (output, text)
}

#[test]
fn processes_are_shown_as_json_and_for_prometheus() {
    let dir = directory();
    let mut child = ready(&mut client(dir.path(), &["hold", "7"]));
    let (output, text) = stat(dir.path(), "--json");
    assert!(output.status.success(), "{output:?}");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let mine = |e: &&Value| e["pid"] == child.id();
    let mine = all["processes"].as_array().expect("a list").iter().find(mine).unwrap_or_else(|| panic!("{text}"));
    for (name, value) in [("rx_frames", 7), ("tx_frames", 7), ("family", 0), ("overruns", 0)] {
        assert_eq!(mine[name], value, "{name}: {text}");
    }
    assert_eq!((mine["rx"]["frames"].as_u64(), mine["rx"]["frame_size"].as_u64()), (Some(16), Some(2048)));
    assert_eq!(mine["id"], format!("{}.1", child.id()));
    assert!(mine["command"].as_str().expect("text").starts_with("shown-plain"), "{text}");
    assert_eq!(mine["users"], serde_json::json!([child.id()]));

    let (_, text) = stat(dir.path(), "--prometheus");
    let line = format!("nlmmap_rx_frames_total{{source=\"process\",endpoint=\"{0}.1\",pid=\"{0}\",", child.id());
    assert!(text.lines().any(|l| l.starts_with(&line) && l.ends_with("} 7")), "{text}");
    assert_eq!(text.lines().filter(|l| *l == "# TYPE nlmmap_overruns_total counter").count(), 1);

    drop(child.stdin.take());
    child.wait().expect("it ends");
}

#[test]
fn what_a_kill_has_left_is_not_shown_and_goes() {
    let dir = directory();
    let mut child = client(dir.path(), &["kill", "1"]).spawn().expect("it starts");
    child.wait().expect("it ends");
    let (_, text) = stat(dir.path(), "--json");
    assert!(!text.contains(&format!("\"{}.1\"", child.id())), "{text}");
    assert_eq!(super::place::files(dir.path()), [""; 0]);
}

/// So is a file whose process was killed before it had filled it in; that of one that lives stays.
#[test]
fn what_a_kill_has_left_unfinished_goes() {
    let dir = directory();
    let mut child = std::process::Command::new("true").spawn().expect("it starts");
    child.wait().expect("it ends");
    let living = format!("{}.7", std::process::id());
    for name in [&format!("{}.1", child.id()), &format!("{}.2", child.id()), &living] {
        let len = if name.ends_with(".2") { 0 } else { 4096 };
        std::fs::write(dir.path().join(name), vec![0; len]).expect("a file");
    }
    stat(dir.path(), "--json");
    assert_eq!(super::place::files(dir.path()), [living]);
}

/// Files that are no pages, or of somebody else, are passed over: they hold nothing up and are not read.
#[test]
fn strange_files_are_passed_over() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("1.1"), [0xff; 4096]).expect("a file");
    std::fs::write(at("1.2"), []).expect("a file");
    std::os::unix::fs::symlink("/etc/shadow", at("1.3")).expect("a link");
    nix::unistd::mkfifo(&at("1.4"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::fs::write(at("1.5"), vec![0x41; 1 << 20]).expect("a file");
    let (output, text) = stat(dir.path(), "--json");
    assert!(output.status.success() && !text.contains("\"1."), "{text}");
}
