//! Conformance: the probes' answers under the preload beside those of 3.10.108 and 4.5.0.
//!
//! Every stable line on which both kernels agree (golden-common.txt) is judged, of the cases whose families this kernel
//! has, and what 4.5 would have answered to further.c (further.txt). The shares are printed by region. A line that differs must stand in differences.txt with a reason that docs/compat.md explains; a line listed there
//! that differs no more is a failure as well. `cargo xtask conformance --update` rewrites the list.

#[path = "../support/mod.rs"]
mod support;

mod differences;
mod kernel;
mod lines;

use differences::{Difference, List};
use kernel::Kernel;
use lines::Lines;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use support::{Mode, preload, repository};

/// One mode at a time: two probes would disturb each other's timing, and both may write
/// differences.txt.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Strict => "strict",
        Mode::Default => "default",
    }
}

/// What a probe prints under the preload.
fn answers(mode: Mode, source: &str) -> String {
    let probe = support::compile_file(&format!("tests/conformance/{source}"), &["-O2", "-w"]);
    let mut command = Command::new(probe);
    // Some observations follow a send of another socket without any call on the ring's own: the
    // kernel had delivered by then, here a thread does (docs/compat.md), so the probe waits a
    // little after each send.
    command
        .env("PROBE_SETTLE_MS", support::patient(20).as_secs().to_string())
        .env("LD_PRELOAD", preload())
        .env_remove("NLMMAP_LOG")
        .env_remove("NLMMAP_STRICT");
    if mode == Mode::Strict {
        command.env("NLMMAP_STRICT", "1");
    }
    let outcome = support::run(&mut command, support::patient(300));
    assert!(outcome.success(), "{source} {}", outcome.describe());
    outcome.stdout
}

/// What the cases of a letter are about.
const REGIONS: &[(char, &str)] = &[
    ('A', "setting rings"),
    ('B', "mapping"),
    ('C', "receiving"),
    ('D', "poll, select, epoll"),
    ('E', "overruns"),
    ('F', "sending"),
    ('G', "order, SKIP"),
    ('H', "closing"),
    ('J', "netfilter"),
    ('K', "dumps beside acknowledgements"),
    ('L', "sends into rings that fill"),
    ('M', "dumps in later waits"),
    ('N', "errors told and taken"),
];

/// Regions whose lines kernels have answered, and those whose lines are derived.
const MEASURED: &[char] = &['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'J'];
const DERIVED: &[char] = &['K', 'L', 'M', 'N'];

/// Equal lines of all lines, of those whose case begins with one of `letters`.
fn share(golden: &Lines, unequal: &BTreeMap<String, (String, String)>, letters: &[char]) -> (usize, usize) {
    let all = golden.iter().filter(|(id, _)| id.starts_with(letters)).count();
    (all - unequal.keys().filter(|id| id.starts_with(letters)).count(), all)
}

/// Unequal lines by id: the expected text and what was seen.
fn compare(golden: &Lines, seen: &Lines) -> BTreeMap<String, (String, String)> {
    golden
        .iter()
        .filter_map(|(id, expected)| {
            let text = seen.get(id).unwrap_or("(absent)");
            (text != expected).then(|| (id.to_string(), (expected.to_string(), text.to_string())))
        })
        .collect()
}

/// Least shares, in percent: of the kernels' lines, of the derived ones.
fn judge(mode: Mode, threshold: f64, further: f64) {
    support::need_root();
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = repository().join("tests/conformance");
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let kernel = Kernel::probe();
    let all = Lines::parse(&(read("golden-common.txt") + &read("further.txt")));
    let golden = all.retain(|id| kernel.can_run(id));
    let seen = Lines::parse(&(answers(mode, "probe.c") + &answers(mode, "further.c")));
    let unequal = compare(&golden, &seen);
    support::say(&format!(
        "conformance, {} mode, Linux {}, {} lines of cases this kernel cannot run:",
        name(mode),
        kernel.release(),
        all.len() - golden.len()
    ));
    for (letter, about) in REGIONS {
        let (equal, of) = share(&golden, &unequal, &[*letter]);
        support::say(&format!("  {letter} {about}: {equal} of {of}"));
    }
    let mut below = Vec::new();
    for (what, letters, least) in [("of the kernels", MEASURED, threshold), ("derived", DERIVED, further)] {
        let (equal, of) = share(&golden, &unequal, letters);
        let percent = 100.0 * equal as f64 / of as f64;
        support::say(&format!("  {equal} of {of} lines {what} equal ({percent:.1} %, at least {least} % wanted)"));
        if percent < least {
            below.push(format!("only {percent:.1} % of the lines {what} are equal, {least} % are wanted"));
        }
    }

    // Default mode's purpose is to differ where rings fill; there the derived lines are counted, not listed.
    let listed = |golden: &Lines| golden.retain(|id| mode == Mode::Strict || !id.starts_with(DERIVED));
    let golden = listed(&golden);
    let mut unequal = unequal;
    unequal.retain(|id, _| golden.get(id).is_some());
    if std::env::var_os("NLMMAP_CONFORMANCE_UPDATE").is_some() {
        let mut list = List::parse(&read("differences.txt"));
        list.update(name(mode), &kernel, &unequal);
        fs::write(dir.join("differences.txt"), list.to_string()).expect("differences.txt can be written");
    }

    let list = List::parse(&read("differences.txt"));
    let mut faults = list.unlisted(name(mode), &kernel, &unequal);
    faults.extend(list.gone(name(mode), &kernel, &golden, &unequal));
    if !faults.is_empty() {
        faults.extend(seen.ended_early(&all));
    }
    faults.extend(unexplained(&list));
    faults.extend(below);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Reasons that docs/compat.md does not name as `key`.
fn unexplained(list: &List) -> Vec<String> {
    let compat = fs::read_to_string(repository().join("docs/compat.md")).unwrap_or_default();
    let mut reasons: Vec<&str> = list.iter().map(|Difference { reason, .. }| reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
        .into_iter()
        .filter(|reason| !compat.contains(&format!("`{reason}`")))
        .map(|reason| format!("differences.txt gives the reason {reason}, docs/compat.md does not explain it"))
        .collect()
}

#[test]
fn strict_mode_answers_as_the_kernels_did() {
    judge(Mode::Strict, 95.0, 97.0);
}

#[test]
fn default_mode_differs_only_where_listed() {
    judge(Mode::Default, 70.0, 40.0);
}
