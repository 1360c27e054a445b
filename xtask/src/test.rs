//! All tests, with what they need; and the runners' own closing lines once more at the end.

use crate::command::{Fault, Words, unknown};
use crate::{cargo, coverage, fuzz, model, package, rules, selftests, soak, tools};

/// Seconds for each fuzz target: enough to see that it works, and to try the committed inputs.
const FUZZ: u32 = 4;
/// Seconds in which clients are killed at any point.
const ENDURE: &str = "60";

pub const HELP: &str = "\
It needs root, for namespaces, devices and apt. With ARGS only `cargo test --workspace ARGS` runs; without any also what is too slow
for that, one after the other: the bench, loom, package, coverage, rules, selftests, soak, and each fuzz target for four
seconds. In the end it says how many tests have passed, and what has not.";

/// Installs the tools, builds the preload library, runs `cargo test` over the workspace.
pub fn all(args: &[String]) -> Result<bool, Fault> {
    tools::need(&tools::all())?;
    // The process tests take it from here; built first, so that a failure shows by itself.
    if !cargo::run(&["build", "--release"])? {
        return Ok(false);
    }
    let mut command = vec!["test", "--workspace", "--no-fail-fast"];
    command.extend(args.iter().map(String::as_str));
    let mut closing = Vec::new();
    let mut note = |line: &str| {
        if line.starts_with("test result:") || line.ends_with("... FAILED") {
            closing.push(line.to_string());
        }
    };
    let mut steps = Steps::default();
    steps.note("cargo test", cargo::watch(&command, &[("NLMMAP_ENDURE", ENDURE)], &mut note).map_err(Fault::from));
    if args.is_empty() {
        // What is too slow for `cargo test`: the whole bench, a tenth of it.
        let slow = ["test", "--package", "xtask", "--", "--ignored"];
        steps.note("bench", cargo::watch(&slow, &[], &mut note).map_err(Fault::from));
        steps.note("loom", model::loom(&mut note).map_err(Fault::from));
        steps.note("package", package::all().map_err(Fault::from));
        match coverage::tools() {
            Ok(_) => steps.note("coverage", coverage::main().map_err(Fault::from)),
            Err(why) => println!("coverage is not checked: {why}"),
        }
        steps.note("rules", rules::check(false).map_err(Fault::from));
        steps.note("selftests", selftests::main(&["--brief".to_string()]));
        steps.note("soak", soak::main(&[]));
        steps.note("fuzz", fuzz::run(&[], fuzz::Wish { seconds: FUZZ, jobs: 2, grow: false }));
    }
    println!("\n{} test runners ended so:", closing.iter().filter(|line| line.starts_with("test result:")).count());
    for line in &closing {
        println!("{line}");
    }
    let sum = |word: &str| -> u32 { closing.iter().filter_map(|line| count(line, word)).sum() };
    println!("all tests: {} passed, {} failed, {} ignored", sum("passed"), sum("failed"), sum("ignored"));
    for failed in &steps.0 {
        println!("not well: {failed}");
    }
    Ok(steps.0.is_empty())
}

/// The steps that have not gone well. What one of them ends with is no reason to leave out the next.
#[derive(Default)]
struct Steps(Vec<String>);

impl Steps {
    fn note(&mut self, step: &str, end: Result<bool, Fault>) {
        match end {
            Ok(true) => {}
            Ok(false) => self.0.push(step.to_string()),
            Err(Fault { why, .. }) => {
                println!("{step}: {why}");
                self.0.push(format!("{step}: {why}"));
            }
        }
    }
}

/// Every hostile client at once.
pub fn attack(words: &[String]) -> Result<bool, Fault> {
    let (mut seconds, mut words) = (1200u32, Words::of(words));
    while let Some(word) = words.next() {
        match word {
            "--seconds" => seconds = words.number(word, 1..=1_000_000)?,
            other => return Err(unknown(other)),
        }
    }
    tools::need(&["gcc"])?;
    let test = ["test", "--package", "nlmmap", "--test", "device", "--", "--nocapture", "afternoon::"];
    Ok(cargo::run_with(&test, &[("NLMMAP_AFTERNOON", &seconds.to_string())])?)
}

/// The number before a word of "test result: ok. 12 passed; 0 failed; ...".
fn count(line: &str, word: &str) -> Option<u32> {
    let line = line.strip_prefix("test result:")?;
    let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// The conformance runner alone, which may rewrite its list of differences.
pub fn conformance(words: &[String]) -> Result<bool, Fault> {
    let mut update = false;
    for word in Words::of(words) {
        match word {
            "--update" => update = true,
            other => return Err(unknown(other)),
        }
    }
    tools::need(&["gcc"])?;
    let env: &[(&str, &str)] = if update { &[("NLMMAP_CONFORMANCE_UPDATE", "1")] } else { &[] };
    Ok(cargo::watch(&["test", "--package", "nlmmap", "--test", "conformance"], env, |_| {})?)
}

#[test]
fn every_step_that_is_not_well_is_named() {
    let mut steps = Steps::default();
    for (step, end) in [("a", Ok(true)), ("b", Ok(false)), ("c", Err("no".into())), ("d", Ok(true))] {
        steps.note(step, end);
    }
    assert_eq!(steps.0, ["b", "c: no"]);
}

#[test]
fn counts_are_read_from_a_closing_line() {
    let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
    assert_eq!((count(line, "passed"), count(line, "failed"), count(line, "ignored")), (Some(12), Some(3), Some(1)));
    assert_eq!(count("test x ... FAILED", "passed"), None);
}
