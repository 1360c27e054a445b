//! The probes of tests/conformance, linked statically, under the supervisor, with the thresholds of the library.
//!
//! What differs there may differ here, in the same way. What differs beyond that stands in differences.txt beside this file,
//! with a reason that docs/compat.md explains.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::differences::List;
use crate::kernel::Kernel;
use crate::lines::Lines;
use crate::support::{Mode, compile_file, need_root, patient, repository, run, say};

/// Two probes would disturb each other's timing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Regions of lines that kernels have answered, and of those that are derived (tests/conformance/main.rs).
const MEASURED: &[char] = &['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'J'];
const DERIVED: &[char] = &['K', 'L', 'M', 'N'];

fn answers(mode: Mode, source: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmmap"));
    command.args(["run", "--via", "supervisor"]).args((mode == Mode::Strict).then_some("--strict"));
    command.arg("--").arg(compile_file(&format!("tests/conformance/{source}"), &["-O2", "-w", "-static"]));
    command.env("PROBE_SETTLE_MS", patient(20).as_secs().to_string());
    let outcome = run(&mut command, patient(300));
    assert!(outcome.success(), "{source} {}", outcome.describe());
    outcome.stdout
}

/// Least shares, in percent: of the kernels' lines, of the derived ones.
fn judge(mode: Mode, name: &str, threshold: f64, further: f64) {
    need_root();
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let read = |file: &str| fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let kernel = Kernel::probe();
    let all = read("tests/conformance/golden-common.txt") + &read("tests/conformance/further.txt");
    let golden = Lines::parse(&all).retain(|id| kernel.can_run(id));
    let seen = Lines::parse(&(answers(mode, "probe.c") + &answers(mode, "further.c")));
    let mut unequal: BTreeMap<String, (String, String)> = golden
        .iter()
        .map(|(id, expected)| (id, expected, seen.get(id).unwrap_or("(absent)")))
        .filter(|(_, expected, seen)| expected != seen)
        .map(|(id, expected, seen)| (id.to_string(), (expected.to_string(), seen.to_string())))
        .collect();
    let mut faults = Vec::new();
    for (what, letters, least) in [("of the kernels", MEASURED, threshold), ("derived", DERIVED, further)] {
        let of = golden.retain(|id| id.starts_with(letters)).len();
        let equal = of - unequal.keys().filter(|id| id.starts_with(letters)).count();
        let percent = 100.0 * equal as f64 / of as f64;
        say(&format!(
            "conformance under the supervisor, {name} mode, Linux {}: {equal} of {of} lines {what} equal ({percent:.1} %, at \
             least {least} % wanted)",
            kernel.release()
        ));
        if percent < least {
            faults.push(format!("only {percent:.1} % of the lines {what} are equal, {least} % are wanted"));
        }
    }
    // Default mode's purpose is to differ where rings fill; there the derived lines are counted, not listed.
    let golden = golden.retain(|id| mode == Mode::Strict || !id.starts_with(DERIVED));
    unequal.retain(|id, _| golden.get(id).is_some());
    let everywhere = List::parse(&read("tests/conformance/differences.txt"));
    let here = List::parse(&read("tests/supervisor/differences.txt"));
    let unknown = everywhere.unlisted(name, &kernel, &unequal);
    faults.extend(here.unlisted(name, &kernel, &unequal).into_iter().filter(|fault| unknown.contains(fault)));
    faults.extend(here.gone(name, &kernel, &golden, &unequal));
    let explained = read("docs/compat.md");
    let reasons = here.iter().filter(|d| !explained.contains(&format!("`{}`", d.reason)));
    faults.extend(reasons.map(|d| format!("the reason {} is not explained in docs/compat.md", d.reason)));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn strict_mode_answers_as_the_kernels_did() {
    judge(Mode::Strict, "strict", 95.0, 97.0);
}

#[test]
fn default_mode_differs_only_where_listed() {
    judge(Mode::Default, "default", 70.0, 40.0);
}
