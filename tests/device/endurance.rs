//! Many open files, many opens, and clients that are killed: nothing of them is left, and nobody else notices.
//!
//! `NLMMAP_ENDURE=SECONDS` kills clients for so long (10 seconds without it).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::attacks::{Beside, PATIENCE, unharmed, witness};
use crate::cage::MemoryCage;
use crate::daemon::{Daemon, Place, client, uses_cuse};
use crate::lifecycle::open;
use crate::support::{modest, patient, say};
use crate::workers::{family, workers};

/// What an idle open file may take beside its rings.
const BESIDE_RINGS: u64 = 64 << 10;
/// By how much memory may differ between two moments of rest: what allocators keep, and the log.
pub const NOISE: u64 = 12 << 20;

/// What all processes of a daemon hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub processes: usize,
    threads: usize,
    descriptors: usize,
    mounts: usize,
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

pub fn held(daemon: &Daemon<'_>) -> Held {
    let processes = family(daemon);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let here = daemon.place.directory.path().display().to_string();
    Held {
        threads: processes.iter().map(|pid| entries(&format!("/proc/{pid}/task"))).sum(),
        descriptors: processes.iter().map(|pid| entries(&format!("/proc/{pid}/fd"))).sum(),
        processes: processes.len(),
        mounts: mounts.lines().filter(|line| line.contains(&here)).count(),
    }
}

/// Waits until the daemon holds what it held, and no file is open.
#[track_caller]
fn at_rest_as(daemon: &Daemon<'_>, before: &Held) {
    daemon.wait_for_opens(0);
    let until = Instant::now() + patient(30);
    loop {
        let (now, stat) = (held(daemon), daemon.stat());
        // The kernel may keep the last name it looked up.
        let nodes = stat["nodes"].as_u64().expect("a number");
        if now == *before && stat["unanswered"] == 0 && stat["backings"] == 0 && nodes <= 1 {
            return;
        }
        assert!(Instant::now() < until, "before: {before:?}\nnow: {now:?}\n{stat}\n{}", daemon.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All memory that a daemon's control group is charged, without what files are cached there.
pub fn charged(cage: &MemoryCage) -> u64 {
    let text = fs::read_to_string(cage.path().join("memory.stat")).expect("its statistics");
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    // Version 1 says `rss` and counts kernel memory apart, version 2 `anon` and `kernel`.
    let kernel =
        fs::read_to_string(cage.path().join("memory.kmem.usage_in_bytes")).ok().and_then(|n| n.trim().parse().ok());
    [of("rss ").or(of("anon ")), of("shmem "), kernel.or(of("kernel "))].into_iter().flatten().sum()
}

/// That of the daemon's processes, where there is no group.
pub fn resident(daemon: &Daemon<'_>) -> u64 {
    let anonymous = |pid: &i32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    family(daemon).iter().filter_map(anonymous).sum()
}

fn many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
}

pub fn stream(place: &Place, endpoints: u32, seconds: u64) -> Beside {
    let (endpoints, seconds) = (endpoints.to_string(), seconds.to_string());
    let mut stream = Beside::start(client("device_stream").arg(place.node()).args([endpoints, seconds]));
    assert_eq!(stream.line(), "ready\n");
    stream
}

/// Everything that was sent has come, in order; nothing stood still for long.
#[track_caller]
pub fn complete(mut stream: Beside, daemon: &Daemon<'_>) {
    let line = stream.line();
    assert!(stream.succeeds(), "{line}\n{}", daemon.tail());
    let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
    assert!(
        numbers.len() == 2 && numbers[0] >= 100.0 && numbers[1] < patient(PATIENCE).as_secs_f64() * 1e6,
        "{line}\n{}",
        daemon.tail()
    );
}

/// A request for loopback, which is one message.
pub fn ask(file: &mut File) {
    let request = [32u32, 18 | 1 << 16, 1, 0, 0, 1, 0, 0].map(u32::to_ne_bytes).concat();
    file.write_all(&request).expect("sent");
}

#[test]
fn a_thousand_open_files_are_normal() {
    const OPENS: u64 = 1000;
    many_descriptors();
    let place = Place::with_config("[limits]\nopens = 4000\nopens_per_uid = 4000\n");
    let cage = MemoryCage::new(2 << 30);
    let daemon = place.start_as(|command| cage.iter().for_each(|cage| cage.put(command)));
    let memory = || cage.as_ref().map_or_else(|| resident(&daemon), charged);
    // Once round, for what is made at the first use and kept.
    drop((0..OPENS).map(|_| open(&place)).collect::<Vec<_>>());
    daemon.wait_for_opens(0);
    let before = held(&daemon);
    let empty = memory();
    let mut files: Vec<File> = (0..OPENS).map(|_| open(&place)).collect();
    let stat = daemon.wait_for_opens(OPENS);
    assert_eq!(stat["ring_bytes"], OPENS * 65536);
    // This program's control group is charged for them, where the daemon's is another.
    let rings = if cage.is_some() { OPENS * 65536 - stat["paid_bytes"].as_u64().expect("a number") } else { 0 };
    let each = memory().saturating_sub(empty + rings) / OPENS;
    say(&format!("an idle open file takes {each} bytes beside its rings"));
    assert!(each <= BESIDE_RINGS, "{each} bytes for an idle open file");
    // All at work, and others beside them.
    let beside = (witness(&place, 3), stream(&place, 8, 3));
    files.iter_mut().for_each(ask);
    for endpoint in daemon.stat()["endpoints"].as_array().expect("a list") {
        let came = endpoint["rx_frames"].as_u64().unwrap_or(0) + endpoint["rx_copies"].as_u64().unwrap_or(0);
        assert!(came == 1 || endpoint["pid"] != std::process::id(), "{endpoint}");
    }
    unharmed(beside.0, &daemon);
    complete(beside.1, &daemon);
    daemon.wait_for_opens(OPENS);
    drop(files);
    at_rest_as(&daemon, &before);
    let after = memory();
    assert!(after < empty + NOISE, "{empty} bytes before, {after} after");
    daemon.stop();
}

#[test]
fn ten_thousand_opens_leave_nothing() {
    let place = Place::new();
    let cage = MemoryCage::new(1 << 30);
    let daemon = place.start_as(|command| cage.iter().for_each(|cage| cage.put(command)));
    let memory = || cage.as_ref().map_or_else(|| resident(&daemon), charged);
    // Keeps the worker, whose place all of this has.
    let keeper = open(&place);
    let cycle = |times: u32| {
        for round in 0..times {
            let mut file = open(&place);
            if round % 4 == 0 {
                ask(&mut file);
            }
        }
    };
    cycle(1000);
    daemon.wait_for_opens(1);
    let (before, empty) = (held(&daemon), memory());
    let witness = witness(&place, 3);
    // Emulated machines take minutes for a thousand.
    cycle(10_000 / patient(1).as_secs() as u32);
    unharmed(witness, &daemon);
    daemon.wait_for_opens(1);
    let after = memory();
    say(&format!("ten thousand opens: {} bytes of memory more", after as i64 - empty as i64));
    // A page of each would be 40 MiB.
    assert!(after < empty + NOISE, "{empty} bytes before, {after} after");
    let until = Instant::now() + patient(30);
    while held(&daemon) != before {
        assert!(Instant::now() < until, "before: {before:?}\nnow: {:?}", held(&daemon));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(workers(&daemon).len(), 1);
    drop(keeper);
    daemon.wait_for_opens(0);
    let stat = daemon.stat();
    let nodes = stat["nodes"].as_u64().expect("a number");
    assert!(nodes <= 2 && stat["backings"] == 0 && stat["unanswered"] == 0, "{stat}");
    daemon.stop();
}

/// Numbers that look like chance.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A client that will be killed, and when.
fn victim(place: &Place, random: &mut Random) -> (Child, Instant) {
    let node: &Path = &place.node();
    let kinds: [(&str, &[&str]); 5] = [
        ("device_dump", &["poll", "hold"]),
        ("device_dump", &["edge", "hold"]),
        ("device_stream", &["4", "100"]),
        ("device_witness", &["100"]),
        ("device_hold", &[]),
    ];
    let (name, args) = kinds[random.below(kinds.len() as u64) as usize];
    let mut command = client(name);
    command.arg(node).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("a client");
    // Most of them in their first steps.
    let most = if random.below(3) == 0 { 300_000 } else { 20_000 };
    (child, Instant::now() + Duration::from_micros(random.below(most)))
}

#[test]
fn clients_killed_at_any_point_leave_nothing_and_delay_nobody() {
    let seconds = std::env::var("NLMMAP_ENDURE").map_or(10, |text| text.parse().expect("NLMMAP_ENDURE: seconds"));
    let place = Place::new();
    let daemon = place.start();
    let _keeper = open(&place);
    // Compiled before the time begins.
    for name in ["device_dump", "device_stream", "device_witness", "device_hold"] {
        client(name);
    }
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64) | 1;
    let mut random = Random(seed);
    daemon.wait_for_opens(1);
    let before = held(&daemon);
    let beside = (witness(&place, seconds as u32), stream(&place, 4, seconds));
    let (end, mut killed) = (Instant::now() + Duration::from_secs(seconds), 0);
    let mut victims: Vec<(Child, Instant)> = Vec::new();
    while Instant::now() < end {
        while victims.len() < 4 {
            victims.push(victim(&place, &mut random));
        }
        let due = victims.iter().enumerate().min_by_key(|(_, (_, due))| *due).map(|(at, _)| at).expect("four");
        let (mut child, due) = victims.swap_remove(due);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        child.kill().expect("killed");
        child.wait().expect("gone");
        killed += 1;
    }
    for (mut child, _) in victims {
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    say(&format!("{killed} clients killed in {seconds} s, seed {seed}"));
    assert!(killed >= modest(seconds), "{killed} clients killed, seed {seed}");
    unharmed(beside.0, &daemon);
    complete(beside.1, &daemon);
    daemon.wait_for_opens(1);
    let until = Instant::now() + patient(30);
    while held(&daemon) != before {
        assert!(Instant::now() < until, "seed {seed}, before: {before:?}\nnow: {:?}\n{}", held(&daemon), daemon.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    let stat = daemon.stat();
    assert!(stat["unanswered"] == 0 && stat["nodes"].as_u64() <= Some(3), "{stat}");
    assert!(uses_cuse() || stat["backings"] == 1, "{stat}");
    drop(_keeper);
    daemon.wait_for_opens(0);
    daemon.stop();
}
