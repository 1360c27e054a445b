//! Nobody waits for somebody else's data, and who sleeps costs nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::daemon::{Place, client, passes};
use crate::workers::workers;

#[test]
fn small_requests_do_not_wait_for_large_kicks() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_fair").arg(place.node()), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// How often a process has given the processor away.
fn switches(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
    line.trim().parse().expect("a number")
}

#[test]
fn full_rings_of_sleeping_clients_cost_next_to_nothing() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = client("device_stalled");
    command.arg(place.node()).arg("200").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stalled = command.spawn().expect("a client");
    let mut lines = BufReader::new(stalled.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "stalled");
    let [worker] = workers(&daemon)[..] else { panic!("one worker") };
    // Until the looks are as rare as they become.
    std::thread::sleep(Duration::from_secs(5));
    let before = switches(worker);
    std::thread::sleep(Duration::from_secs(4));
    let looks = switches(worker) - before;
    assert!(looks <= 40, "{looks} switches in four seconds");
    stalled.stdin.take().expect("a pipe").write_all(b"go\n").expect("told");
    assert_eq!(lines.next().expect("a line").expect("text"), "all there");
    assert!(stalled.wait().expect("it ends").success());
    daemon.wait_for_opens(0);
    daemon.stop();
}
