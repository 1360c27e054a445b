//! The probe of tests/conformance through the device, with the thresholds of the library without one.
//!
//! What differs there may differ here, in the same way. What differs beyond that stands in differences.txt beside this file,
//! with a reason that docs/device.md explains.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, NLMMAP, Place};
use crate::differences::List;
use crate::kernel::Kernel;
use crate::lines::Lines;
use crate::support::{Mode, compile_file, need_root, patient, preload, repository, run, say};

/// Two probes would disturb each other's timing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What the probe has printed, and what the daemon has complained of.
fn answers(mode: Mode) -> (Lines, Vec<String>) {
    let place = Place::new();
    let daemon = place.start();
    let mut command = Command::new(NLMMAP);
    command.args(["run", "--device"]).arg(place.node());
    command.args((mode == Mode::Strict).then_some("--strict"));
    command.arg("--").arg(compile_file("tests/conformance/probe.c", &["-O2", "-w"]));
    // As without a device (tests/conformance/main.rs).
    command.env("PROBE_SETTLE_MS", patient(20).as_secs().to_string()).env("NLMMAP_PRELOAD", preload());
    command.env_remove("NLMMAP_LOG").env_remove("NLMMAP_STRICT");
    let (over, hung) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| look_for_hung_cases(&daemon, &over, &hung));
        let outcome = run(&mut command, patient(300));
        over.store(true, Ordering::Relaxed);
        outcome
    });
    assert!(outcome.success(), "the probe {}", outcome.describe());
    let log = daemon.log();
    let opens = log.lines().filter(|line| line.contains("DEBUG open ")).count();
    assert!(opens > 100, "the probe has opened the node {opens} times");
    daemon.wait_for_opens(0);
    daemon.stop();
    let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR "));
    let hung = hung.into_inner().unwrap_or_else(PoisonError::into_inner);
    (Lines::parse(&outcome.stdout), complaints.map(str::to_string).chain(hung).collect())
}

/// A case has some ten seconds. One that takes most of them waits for something: what, and whether the daemon knows of it.
fn look_for_hung_cases(daemon: &Daemon<'_>, over: &AtomicBool, hung: &Mutex<Vec<String>>) {
    let mut since: HashMap<u32, Instant> = HashMap::new();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500));
        let cases = cases();
        since.retain(|pid, _| cases.contains(pid));
        for pid in cases {
            let begun = *since.entry(pid).or_insert_with(Instant::now);
            if begun.elapsed() > patient(6) {
                // Once.
                since.insert(pid, begun + patient(1000));
                let read = |what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
                let unanswered = &daemon.stat()["unanswered"];
                let told = format!(
                    "a case takes long: system call {}, {unanswered} requests unanswered, in the kernel:\n{}\nthe daemon:\n{}",
                    read("syscall").trim_end(),
                    read("stack"),
                    daemon.tail()
                );
                hung.lock().unwrap_or_else(PoisonError::into_inner).push(told);
            }
        }
    }
}

/// The processes of the probe that run a case: those that have no child.
fn cases() -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let read = |what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        read("comm").starts_with("probe-") && read(&format!("task/{pid}/children")).is_empty()
    })
    .collect()
}

fn judge(mode: Mode, name: &str, threshold: f64) {
    need_root();
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let read = |file: &str| fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let kernel = Kernel::probe();
    let golden = Lines::parse(&read("tests/conformance/golden-common.txt")).retain(|id| kernel.can_run(id));
    let (seen, complaints) = answers(mode);
    let unequal: BTreeMap<String, (String, String)> = golden
        .iter()
        .map(|(id, expected)| (id, expected, seen.get(id).unwrap_or("(absent)")))
        .filter(|(_, expected, seen)| expected != seen)
        .map(|(id, expected, seen)| (id.to_string(), (expected.to_string(), seen.to_string())))
        .collect();
    let share = 100.0 * (golden.len() - unequal.len()) as f64 / golden.len() as f64;
    say(&format!(
        "conformance through the device, {name} mode, Linux {}: {} of {} stable lines equal ({share:.1} %, at least {threshold} \
         % wanted)",
        kernel.release(),
        golden.len() - unequal.len(),
        golden.len(),
    ));
    let everywhere = List::parse(&read("tests/conformance/differences.txt"));
    let here = List::parse(&read("tests/through_device/differences.txt"));
    let unknown = everywhere.unlisted(name, &kernel, &unequal);
    let mut faults: Vec<String> =
        here.unlisted(name, &kernel, &unequal).into_iter().filter(|fault| unknown.contains(fault)).collect();
    faults.extend(here.gone(name, &kernel, &golden, &unequal));
    if !faults.is_empty() {
        faults.extend(seen.ended_early(&golden));
        faults.extend(complaints);
    }
    let explained = read("docs/device.md");
    let reasons = here.iter().filter(|d| !explained.contains(&format!("`{}`", d.reason)));
    faults.extend(reasons.map(|d| format!("the reason {} is not explained in docs/device.md", d.reason)));
    if share < threshold {
        faults.push(format!("only {share:.1} % of the lines are equal, {threshold} % are wanted"));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn strict_mode_answers_as_the_kernels_did() {
    judge(Mode::Strict, "strict", 95.0);
}

#[test]
fn default_mode_differs_only_where_listed() {
    judge(Mode::Default, "default", 70.0);
}
