//! Real clients of all kinds at once, under the library and through the daemon, for a bounded time.
//!
//! Each client judges what it sees: streams are complete and in order, verdicts reach the packets they name, dumps are whole. Beside
//! them others are killed, the configuration is read again, people look. In the end nobody may hold more than before.

mod daemon;
mod lanes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Fault, Words, unknown};
use crate::{cargo, tools};
use daemon::Daemon;
use lanes::{Lane, Outcome, Places};

const MINUTES: u64 = 2;
const MOST_MINUTES: u64 = 24 * 60;

/// What is wrong, of one lane or of what is left behind.
type Complaints = Mutex<Vec<String>>;

pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut minutes, mut words) = (MINUTES, Words::of(words));
    while let Some(word) = words.next() {
        match word {
            "--minutes" => minutes = words.number(word, 1..=MOST_MINUTES)?,
            other => return Err(unknown(other)),
        }
    }
    tools::need(&["gcc", "ip", "iptables-legacy", "unshare"])?;
    // The daemon with its assertions and overflow checks; the library as programs have it, which there is no other of.
    for build in [&["build", "--package", "nlmmap"][..], &["build", "--release", "--package", "nlmmap-preload"]] {
        if !cargo::run(build)? {
            return Ok(false);
        }
    }
    let target = cargo::target_dir()?;
    let scratch = target.join(format!("soak-{}", std::process::id()));
    let done = soak(&target, &scratch, Duration::from_secs(60 * minutes));
    // Clients that were killed have left nothing here that anybody needs.
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(done?)
}

fn soak(target: &Path, scratch: &Path, time: Duration) -> Result<bool, String> {
    let view = scratch.join("view");
    std::fs::create_dir_all(&view).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let mode = Command::new("chmod").arg("700").arg(&view).status();
    if !mode.is_ok_and(|status| status.success()) {
        return Err(format!("{}: cannot be closed to others", view.display()));
    }
    let programs = programs(scratch)?;
    let nlmmap = target.join("debug/nlmmap");
    let daemon = Daemon::start(&nlmmap, scratch)?;
    let places = Places {
        preload: target.join("release/libnlmmap_preload.so"),
        node: daemon.node(),
        runtime: daemon.runtime(),
        name: daemon.name().to_owned(),
        nlmmap,
        view,
        programs,
    };
    let (end, stop) = (Instant::now() + time, AtomicBool::new(false));
    let (complaints, results) = (Complaints::default(), Mutex::new(Vec::new()));
    let lanes = lanes::all(&places, time);
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for lane in &lanes {
            let (complaints, results, stop) = (&complaints, &results, &stop);
            scope.spawn(move || {
                let (runs, killed) = drive(lane, end, stop, complaints);
                lock(results).push(format!("  {:28} {runs:>7} runs{killed}", lane.name));
            });
        }
        while Instant::now() < end && !stop.load(Ordering::Relaxed) {
            samples.push(daemon.held());
            daemon.reload();
            thread::sleep(Duration::from_secs(1));
        }
    });
    for line in lock(&results).iter() {
        println!("{line}");
    }
    let mut wrong = complaints.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    wrong.extend(daemon.growth(&samples));
    wrong.extend(daemon.end(&places));
    for what in &wrong {
        println!("soak: {what}");
    }
    let how = if wrong.is_empty() { "nothing found" } else { "FAILED" };
    println!("soak: {} s, {} kinds of clients: {how}", time.as_secs(), lanes.len());
    Ok(wrong.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a lane's clients one after the other, until the time is up or something is wrong: how many, and how many were killed.
fn drive(lane: &Lane, end: Instant, stop: &AtomicBool, complaints: &Complaints) -> (u64, String) {
    let (mut runs, mut killed) = (0u64, 0u64);
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        match lane.run(runs) {
            Outcome::Held => {}
            Outcome::Killed => killed += 1,
            Outcome::Wrong(what) => {
                lock(complaints).push(format!("{}, run {runs}: {what}", lane.name));
                stop.store(true, Ordering::Relaxed);
            }
        }
        runs += 1;
    }
    if runs == 0 {
        lock(complaints).push(format!("{}: never ran", lane.name));
    }
    (runs, if killed > 0 { format!(", {killed} of them killed") } else { String::new() })
}

/// The clients, compiled.
fn programs(to: &Path) -> Result<HashMap<&'static str, PathBuf>, String> {
    let root = cargo::root();
    let mut all = HashMap::new();
    for name in ["soak", "nfqueue", "shown", "device_dump", "device_move", "fork_new_ring"] {
        let program = to.join(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-g", "-std=gnu11"]).arg(format!("-I{}", root.join("include").display()));
        gcc.arg(root.join(format!("tests/clients/{name}.c"))).arg("-o").arg(&program).args(["-pthread", "-ldl"]);
        match gcc.stdin(Stdio::null()).status() {
            Ok(status) if status.success() => all.insert(name, program),
            Ok(_) => return Err(format!("tests/clients/{name}.c does not compile")),
            Err(e) => return Err(format!("gcc: {e}")),
        };
    }
    Ok(all)
}
