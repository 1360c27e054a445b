//! Every hostile client at once against one daemon, beside honest ones: their streams are exact, and nothing of the daemon grows.
//!
//! `NLMMAP_AFTERNOON=SECONDS` makes it longer than 15 seconds; `cargo xtask attack` sets it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attacks::{unharmed, witness};
use crate::cage::MemoryCage;
use crate::daemon::{Daemon, Place, client, passes};
use crate::endurance::{NOISE, charged, complete, held, resident, stream};
use crate::lifecycle::open;
use crate::support::{patient, say};
use crate::workers::{family, uid, workers};

/// The first of the users who attack; each attack has one of its own.
const FIRST: u32 = 61_000;
/// Whose messages policy judges.
const JUDGED: u32 = FIRST + 99;
/// So long an attacker has at most before it is killed and the next one comes.
const TURN: Duration = Duration::from_secs(6);
/// So long honest clients are there, one after the other.
const ROUND: u64 = 15;

/// What attacks: a client and its arguments, as a user without rights or, where it has to make namespaces, as root.
const ATTACKS: [(&str, &[&str], bool); 15] = [
    ("device_hostile", &[], true),
    ("device_hostile", &[], true),
    ("device_kickers", &["5", "3", "same", "16"], true),
    ("device_kickers", &["5", "6", "others", "16"], false),
    ("device_greedy", &["rings", "64"], true),
    ("device_greedy", &["rings", "1"], true),
    ("device_greedy", &["opens"], true),
    ("device_greedy", &["refused", "100000"], true),
    ("device_holes", &[], true),
    ("device_shared", &[], true),
    ("device_move", &[], false),
    ("device_stalled", &["50"], false),
    ("device_dump", &["poll", "hold"], true),
    ("device_stream", &["8", "5"], true),
    ("device_witness", &["5"], true),
];

/// Attacks again and again; whatever becomes of each.
fn attack(until: Instant, make: impl Fn() -> Command, count: &AtomicU32) {
    while Instant::now() < until {
        let mut command = make();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, to end with what it has started.
        let mut child = command.process_group(0).spawn().expect("an attacker");
        let end = until.min(Instant::now() + TURN);
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > end {
                let _ = kill(Pid::from_raw(-(child.id() as i32)), Signal::SIGKILL);
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill(Pid::from_raw(-(child.id() as i32)), Signal::SIGKILL);
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills and stops workers of those who attack, as those may: each worker has its client's ids.
fn worker_killer(daemon: &Daemon<'_>, over: &AtomicBool) {
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        for pid in workers(daemon).into_iter().filter(|pid| uid(*pid).is_some_and(|uid| (FIRST..JUDGED).contains(&uid)))
        {
            round += 1;
            match round % 5 {
                0 => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
                1 => drop(kill(Pid::from_raw(pid), Signal::SIGSTOP)),
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(700));
    }
}

/// What a process is, in a line.
fn described(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let words = ["Name:", "State:", "PPid:", "Uid:", "SigPnd:", "ShdPnd:"];
    let lines = status.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
    let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    format!("{pid}: {} {wchan}\n", lines.collect::<Vec<_>>().join(" "))
}

fn everything(place: &Place, daemon: &Daemon<'_>, squeezed: Option<&MemoryCage>, seconds: u64) -> u32 {
    let (until, over, count) =
        (Instant::now() + Duration::from_secs(seconds), AtomicBool::new(false), AtomicU32::new(0));
    let node = place.node();
    let (node, count, over) = (&node, &count, &over);
    std::thread::scope(|scope| {
        for (number, (name, args, unprivileged)) in ATTACKS.into_iter().enumerate() {
            let program = client(name).get_program().to_owned();
            let make = move || {
                let mut command = Command::new(&program);
                command.arg(node).args(args);
                if unprivileged {
                    command.uid(FIRST + number as u32).gid(FIRST + number as u32);
                }
                command
            };
            scope.spawn(move || attack(until, make, count));
        }
        let program = client("device_hold").get_program().to_owned();
        let elsewhere = move || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net", "--pid", "--fork"]).arg(&program).arg(node);
            command.uid(FIRST + 50).gid(FIRST + 50);
            command
        };
        scope.spawn(move || attack(until, elsewhere, count));
        let program = client("device_greedy").get_program().to_owned();
        let judged = move || {
            let mut command = Command::new(&program);
            command.arg(node).args(["judged", "20"]).uid(JUDGED).gid(JUDGED);
            command
        };
        scope.spawn(move || attack(until, judged, count));
        if let Some(cage) = squeezed {
            let program = client("device_squeezed").get_program().to_owned();
            let squeezed = move || {
                let mut command = Command::new(&program);
                command.arg(node);
                cage.put_as(&mut command, FIRST + 51);
                command
            };
            scope.spawn(move || attack(until, squeezed, count));
        }
        scope.spawn(move || worker_killer(daemon, over));
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now()).as_secs().clamp(5, ROUND);
            let beside = (witness(place, left as u32), stream(place, 4, left));
            unharmed(beside.0, daemon);
            complete(beside.1, daemon);
            daemon.stat();
        }
        over.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed)
}

#[test]
fn every_attack_at_once_changes_nothing_for_the_honest_and_leaves_nothing() {
    let seconds = std::env::var("NLMMAP_AFTERNOON").map_or(15, |text| text.parse().expect("NLMMAP_AFTERNOON: seconds"));
    let rule = format!("[[policy.rule]]\nusers = [{JUDGED}]\nfamily = \"route\"\nsend = [\"getlink\"]\n");
    let place = Place::with_config(&rule);
    let (cage, squeezed) = (MemoryCage::new(2 << 30), MemoryCage::new(300 << 20));
    let daemon = place.start_as(|command| cage.iter().for_each(|cage| cage.put(command)));
    // Keeps the worker of the honest ones.
    let keeper = open(&place);
    let mut granted = client("device_greedy");
    passes(granted.arg(place.node()).args(["judged", "1"]).uid(JUDGED).gid(JUDGED), &daemon);
    // Once round, for what is made at the first use and kept.
    everything(&place, &daemon, squeezed.as_ref(), 5);
    let at_rest = || {
        // A worker that was stopped is killed for its silence after a while.
        let until = Instant::now() + patient(90);
        // The front, the spawner, the keeper's worker, and the grantor.
        while held(&daemon).processes != 4 || daemon.stat()["opens"] != 1 {
            let there = || family(&daemon).into_iter().map(described).collect::<String>();
            assert!(Instant::now() < until, "{:?}\n{}{}\n{}", held(&daemon), there(), daemon.stat(), daemon.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
        (held(&daemon), cage.as_ref().map_or_else(|| resident(&daemon), charged))
    };
    let before = at_rest();
    let attacks = everything(&place, &daemon, squeezed.as_ref(), seconds);
    let after = at_rest();
    say(&format!("{attacks} attacks in {seconds} s; before: {before:?}, after: {after:?}"));
    assert!(u64::from(attacks) > seconds, "{attacks} attacks in {seconds} s");
    assert_eq!(before.0, after.0, "what the daemon holds");
    assert!(after.1 < before.1 + NOISE, "{} bytes before, {} after", before.1, after.1);
    drop(keeper);
    daemon.wait_for_opens(0);
    daemon.stop();
}
