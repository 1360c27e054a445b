//! Engine and codec in the interpreter: every access checked, against the rules of references and pointers too.
//!
//! A seed decides the order of threads, addresses, and the random cases of the models. Each part runs once for each seed, as many
//! beside each other as there are processors, and all of it within a time.

use crate::command::{Fault, Words, unknown};
use crate::{cargo, model};
use std::fs::File;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// What is run, and what else the interpreter is told for it.
struct Part {
    name: &'static str,
    args: &'static [&'static str],
    flags: &'static str,
}

const PARTS: [Part; 3] = [
    Part { name: "models", args: &["--package", "nlmmap-ring", "--test", "engine"], flags: "" },
    Part { name: "engine", args: &["--package", "nlmmap-ring", "--lib", "--test", "geometry"], flags: "" },
    // The codec reads committed inputs, which isolation would keep from it.
    Part {
        name: "codec",
        args: &["--package", "cuse-rs", "--lib", "protocol::request"],
        flags: "-Zmiri-disable-isolation",
    },
];

pub const HELP: &str =
    "  --seeds N    run each part once for each of so many seeds, which decide orders, addresses and random cases (4)
  --minutes N  end all of it after so long; what was not done then is a failure (20)

MIRIFLAGS are handed on behind our own. What each run says is kept in target/miri/logs.";

/// Runs what the words say.
pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut seeds, mut minutes) = (4, 20);
    let mut words = Words::of(words);
    while let Some(word) = words.next() {
        match word {
            "--seeds" => seeds = words.number(word, 1..=65_535)?,
            "--minutes" => minutes = words.number(word, 1..=65_535)?,
            other => return Err(unknown(other)),
        }
    }
    if !model::works(&["+nightly", "miri", "--version"]) {
        let cure = "rustup toolchain install nightly --component miri,rust-src";
        return Err(format!("there is no nightly toolchain with miri; get one: {cure}").into());
    }
    Ok(run(seeds, Duration::from_secs(minutes * 60))?)
}

fn run(seeds: u32, longest: Duration) -> Result<bool, String> {
    let end = Instant::now() + longest;
    let target = model::target("miri")?;
    let logs = cargo::target_dir()?.join("miri/logs");
    std::fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    for part in &PARTS {
        // Built once: the runs below only interpret.
        let mut built = model::nightly(&["miri", "test", "--target-dir", &target, "--no-run"], part.args, &[]);
        if !built.status().map_err(|e| format!("cargo +nightly: {e}"))?.success() {
            return Ok(false);
        }
    }
    let jobs: Vec<_> = (0..seeds).flat_map(|seed| PARTS.iter().map(move |part| (part, seed))).collect();
    let line = Mutex::new(jobs.iter());
    let failed = Mutex::new(Vec::new());
    let one = |part: &Part, seed: u32| -> Result<String, String> {
        let name = format!("{} seed {seed}", part.name);
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            return Err(format!("{name}: not begun, the time is up"));
        }
        let asked = std::env::var("MIRIFLAGS").unwrap_or_default();
        let flags = format!("-Zmiri-strict-provenance -Zmiri-seed={seed} {} {asked}", part.flags);
        let log = logs.join(name.replace(' ', "-"));
        let file = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = file.map_err(|e| format!("{}: {e}", log.display()))?;
        let left = left.to_string();
        let limit = ["timeout", "--kill-after=5", &left];
        let mut command = model::nightly(&["miri", "test", "--target-dir", &target], part.args, &limit);
        let begun = Instant::now();
        // Outside of isolation the models' random cases would be the system's.
        command.env("MIRIFLAGS", flags.trim()).env("PROPTEST_RNG_SEED", seed.to_string());
        let status = command.stdout(out).stderr(err).status();
        let status = status.map_err(|e| format!("timeout: {e}"))?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let passed: u32 = text.lines().filter_map(passed).sum();
        match status.code() {
            Some(0) if passed > 0 => Ok(format!("{name}: {passed} tests in {} s", begun.elapsed().as_secs())),
            Some(0) => Err(format!("{name}: no test was run; see {}", log.display())),
            Some(124 | 137) => Err(format!("{name}: not done when the time was up; see {}", log.display())),
            _ => {
                let tail: Vec<_> = text.lines().rev().take(60).collect();
                tail.iter().rev().for_each(|line| println!("{line}"));
                Err(format!("{name}: FAILED; see {}", log.display()))
            }
        }
    };
    let many = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..many {
            scope.spawn(|| {
                let next = || line.lock().ok()?.next().copied();
                while let Some((part, seed)) = next() {
                    match one(part, seed) {
                        Ok(done) => println!("miri {done}"),
                        Err(why) => {
                            println!("miri {why}");
                            failed.lock().map(|mut all| all.push(why)).unwrap_or_default();
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().map_err(|_| "a thread of miri's runs has panicked".to_string())?;
    println!("miri: {} runs, {} of them not well", jobs.len(), failed.len());
    Ok(failed.is_empty())
}

/// How many passed, of a runner's closing line.
fn passed(line: &str) -> Option<u32> {
    line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok()
}

#[test]
fn what_has_passed_is_counted() {
    assert_eq!(passed("test result: ok. 27 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"), Some(27));
    assert_eq!(passed("test result: FAILED. 3 passed; 1 failed"), None);
}
