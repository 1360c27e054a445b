//! All tests, with what they need; and the runners' own closing lines once more at the end.

use crate::{cargo, coverage, fuzz, model, package, rules, selftests, soak, tools};

/// Seconds for each fuzz target: enough to see that it works, and to try the committed inputs.
const FUZZ: u32 = 4;
/// Seconds in which clients are killed at any point.
const ENDURE: &str = "60";

/// Installs the tools, builds the preload library, runs `cargo test` over the workspace.
pub fn all(args: &[String]) -> Result<bool, String> {
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
    let mut passed = cargo::watch(&command, &[("NLMMAP_ENDURE", ENDURE)], &mut note)?;
    if args.is_empty() {
        // What is too slow for `cargo test`: the whole bench, a tenth of it.
        let slow = ["test", "--package", "xtask", "--", "--ignored"];
        passed &= cargo::watch(&slow, &[], &mut note)?;
        passed &= model::loom(&mut note)?;
        passed &= package::all()?;
        match coverage::tools() {
            Ok(_) => passed &= coverage::main()?,
            Err(why) => println!("coverage is not checked: {why}"),
        }
        passed &= rules::check(false)?;
        passed &= selftests::main(&["--brief".to_string()])?;
        passed &= soak::main(&[])?;
        passed &= fuzz::run(&[], fuzz::Wish { seconds: FUZZ, jobs: 2, grow: false })?;
    }
    println!("\n{} test runners ended so:", closing.iter().filter(|line| line.starts_with("test result:")).count());
    for line in &closing {
        println!("{line}");
    }
    let sum = |word: &str| -> u32 { closing.iter().filter_map(|line| count(line, word)).sum() };
    println!("all tests: {} passed, {} failed, {} ignored", sum("passed"), sum("failed"), sum("ignored"));
    Ok(passed)
}

/// Every hostile client at once, for so many seconds.
pub fn attack(seconds: &str) -> Result<bool, String> {
    seconds.parse::<u32>().map_err(|_| format!("--seconds {seconds}: a number of seconds is wanted"))?;
    tools::need(&["gcc"])?;
    let test = ["test", "--package", "nlmmap", "--test", "device", "--", "--nocapture", "afternoon::"];
    cargo::run_with(&test, &[("NLMMAP_AFTERNOON", seconds)])
}

/// The number before a word of "test result: ok. 12 passed; 0 failed; ...".
fn count(line: &str, word: &str) -> Option<u32> {
    let line = line.strip_prefix("test result:")?;
    let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// The conformance runner alone; `update` lets it rewrite its list of differences.
pub fn conformance(update: bool) -> Result<bool, String> {
    tools::need(&["gcc"])?;
    let env: &[(&str, &str)] = if update { &[("NLMMAP_CONFORMANCE_UPDATE", "1")] } else { &[] };
    cargo::watch(&["test", "--package", "nlmmap", "--test", "conformance"], env, |_| {})
}

#[test]
fn counts_are_read_from_a_closing_line() {
    let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
    assert_eq!((count(line, "passed"), count(line, "failed"), count(line, "ignored")), (Some(12), Some(3), Some(1)));
    assert_eq!(count("test x ... FAILED", "passed"), None);
}
