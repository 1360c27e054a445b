//! Conformance: the probe's answers under the preload beside those of 3.10.108 and 4.5.0.
//!
//! Every stable line on which both kernels agree (golden-common.txt) is judged, of the cases whose families this kernel
//! has. A line that differs must stand in differences.txt with a reason that docs/compat.md explains; a line listed there
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
use std::time::Duration;
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

/// What the probe prints under the preload.
fn answers(mode: Mode) -> Lines {
    let probe = support::compile_file("tests/conformance/probe.c", &["-O2", "-w"]);
    let mut command = Command::new(probe);
    // Some observations follow a send of another socket without any call on the ring's own: the
    // kernel had delivered by then, here a thread does (docs/compat.md), so the probe waits a
    // little after each send.
    command
        .env("PROBE_SETTLE_MS", "20")
        .env("LD_PRELOAD", preload())
        .env_remove("NLMMAP_LOG")
        .env_remove("NLMMAP_STRICT");
    if mode == Mode::Strict {
        command.env("NLMMAP_STRICT", "1");
    }
    let outcome = support::run(&mut command, Duration::from_secs(300));
    assert!(outcome.success(), "the probe {}", outcome.describe());
    Lines::parse(&outcome.stdout)
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

fn judge(mode: Mode, threshold: f64) {
    support::need_root();
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = repository().join("tests/conformance");
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let kernel = Kernel::probe();
    let all = Lines::parse(&read("golden-common.txt"));
    let golden = all.retain(|id| kernel.can_run(id));
    let unequal = compare(&golden, &answers(mode));
    let equal = golden.len() - unequal.len();
    let share = 100.0 * equal as f64 / golden.len() as f64;
    support::say(&format!(
        "conformance, {} mode, Linux {}: {equal} of {} stable lines equal ({share:.1} %, at least {threshold} % wanted), {} \
         lines of cases this kernel cannot run",
        name(mode),
        kernel.release(),
        golden.len(),
        all.len() - golden.len(),
    ));

    if std::env::var_os("NLMMAP_CONFORMANCE_UPDATE").is_some() {
        let mut list = List::parse(&read("differences.txt"));
        list.update(name(mode), &kernel, &unequal);
        fs::write(dir.join("differences.txt"), list.to_string()).expect("differences.txt can be written");
    }

    let list = List::parse(&read("differences.txt"));
    let mut faults = list.unlisted(name(mode), &kernel, &unequal);
    faults.extend(list.gone(name(mode), &kernel, &golden, &unequal));
    faults.extend(unexplained(&list));
    if share < threshold {
        faults.push(format!("only {share:.1} % of the lines are equal, {threshold} % are wanted"));
    }
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
    judge(Mode::Strict, 95.0);
}

#[test]
fn default_mode_differs_only_where_listed() {
    judge(Mode::Default, 70.0);
}
