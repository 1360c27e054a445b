//! The fuzz targets of `fuzz/`, each for a bounded time. Built by the toolchain at hand: libFuzzer comes as source.

mod corpus;

use crate::command::{Fault, Words, unknown};
use crate::{cargo, tools};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What libFuzzer steers by: counters on edges, comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Of one input.
const SLOW: u32 = 20;
/// Rings come and go with each input: their memory stays with the process.
const MEMORY: [(&str, &str); 1] =
    [("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296")];
/// The most that these targets look at, which is all moves of their models: 150 of four bytes, behind another four for what is set up;
/// 120 of eight, behind one.
const LENGTHS: [(&str, u32); 6] =
    [("hostile", 604), ("exact", 604), ("stream", 604), ("kick", 604), ("descriptors", 600), ("hooks", 961)];
/// Packages of targets. One build has one set of features of the engine's, so each is built by itself.
const PACKAGES: [(&str, &str); 2] =
    [("nlmmap-fuzz", "fuzz/Cargo.toml"), ("nlmmap-fuzz-system", "fuzz/system/Cargo.toml")];

/// How long, how many beside each other, and what becomes of new inputs.
#[derive(Clone, Copy)]
pub struct Wish {
    pub seconds: u32,
    pub jobs: usize,
    pub grow: bool,
}

pub const HELP: &str = "  TARGET       one of those in fuzz/Cargo.toml and fuzz/system/Cargo.toml; without any, each of them
  --seconds N  run each target for so long (60)
  --minutes N  the same, in minutes
  --jobs N     so many targets beside each other (1)
  --grow       choose the inputs that are committed anew: few and short ones that reach as much as all

An input that something fails on is kept in target/fuzz/artifacts/TARGET, and what was found that reaches something new in
target/fuzz/corpus/TARGET, from where the next run goes on.";

/// Runs what the words say.
pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut wish, mut wanted) = (Wish { seconds: 60, jobs: 1, grow: false }, Vec::new());
    let mut words = Words::of(words);
    while let Some(word) = words.next() {
        match word {
            "--seconds" => wish.seconds = words.number(word, 1..=65_535)?,
            "--minutes" => wish.seconds = words.number(word, 1..=65_535)? * 60,
            "--jobs" => wish.jobs = words.number(word, 1..=1024)?,
            "--grow" => wish.grow = true,
            option if option.starts_with('-') => return Err(unknown(option)),
            target => wanted.push(target.to_string()),
        }
    }
    run(&wanted, wish)
}

/// One target, built.
struct Target {
    name: String,
    program: PathBuf,
    /// Committed inputs, those found so far, those that fail.
    corpus: PathBuf,
    found: PathBuf,
    crashes: PathBuf,
}

/// Builds all, and runs these (none: each) for so long, from the committed inputs and those found before. What is found that is
/// new is kept in `target/fuzz`; with [`Wish::grow`] the committed inputs become the least of both that reach as much.
pub fn run(wanted: &[String], wish: Wish) -> Result<bool, Fault> {
    let mut known = Vec::new();
    for (_, manifest) in PACKAGES {
        known.extend(names(&cargo::root().join(manifest))?);
    }
    if let Some(other) = wanted.iter().find(|name| !known.contains(name)) {
        return Err(Fault::wrong(format!("there is no target {other}, but {}", known.join(", "))));
    }
    tools::need(&["g++"])?;
    let Some(targets) = build()? else { return Ok(false) };
    let clean = AtomicBool::new(true);
    let line = Mutex::new(targets.iter().filter(|target| wanted.is_empty() || wanted.contains(&target.name)));
    let next = || line.lock().ok()?.next();
    thread::scope(|scope| {
        let jobs = (0..wish.jobs).map(|_| {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match target.fuzz(wish) {
                        Ok(true) => {}
                        Ok(false) => clean.store(false, Ordering::Relaxed),
                        Err(why) => {
                            println!("fuzz {}: {why}", target.name);
                            clean.store(false, Ordering::Relaxed);
                        }
                    }
                }
            })
        });
        // All of them, before any is waited for.
        drop(jobs.collect::<Vec<_>>());
    });
    Ok(clean.into_inner())
}

/// Builds every target; none if one does not build.
fn build() -> Result<Option<Vec<Target>>, String> {
    let (root, target) = (cargo::root(), cargo::target_dir()?.join("fuzz"));
    let dir = target.to_str().ok_or("the target directory's name is not UTF-8")?;
    let mut all = Vec::new();
    for (package, manifest) in PACKAGES {
        let mut args = vec!["build", "--quiet", "--release", "--manifest-path", "fuzz/Cargo.toml"];
        args.extend(["--package", package, "--target", HOST, "--target-dir", dir]);
        if !cargo::run_with(&args, &[("RUSTFLAGS", COVERAGE)])? {
            return Ok(None);
        }
        for name in names(&root.join(manifest))? {
            // The codec's inputs are its package's, whose tests read them too.
            let home = if name == "request" { "crates/cuse-rs/fuzz/corpus" } else { "fuzz/corpus" };
            let made = Target {
                program: target.join(HOST).join("release").join(&name),
                corpus: root.join(home).join(&name),
                found: target.join("corpus").join(&name),
                crashes: target.join("artifacts").join(&name),
                name,
            };
            for dir in [&made.corpus, &made.found, &made.crashes] {
                std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            }
            all.push(made);
        }
    }
    Ok(Some(all))
}

impl Target {
    /// What libFuzzer is told, whatever it does.
    fn settings(&self) -> Vec<String> {
        // Bytes that no move is made of would only be mutated for nothing.
        let longest = LENGTHS.iter().find(|(name, _)| *name == self.name).map_or(2048, |(_, bytes)| *bytes);
        let settings = ["-rss_limit_mb=2048", "-len_control=10"].map(str::to_string).into_iter();
        let own = [
            format!("-timeout={SLOW}"),
            format!("-max_len={longest}"),
            format!("-artifact_prefix={}/", self.crashes.display()),
        ];
        settings.chain(own).collect()
    }

    /// Whether nothing was found.
    fn fuzz(&self, wish: Wish) -> Result<bool, String> {
        let mut command = Command::new(&self.program);
        command.args(self.settings()).envs(MEMORY);
        command.arg(format!("-max_total_time={}", wish.seconds)).arg("-print_final_stats=1");
        let output = command.args([&self.found, &self.corpus]).output().map_err(|e| e.to_string())?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            println!("{told}");
            println!("fuzz {}: FAILED; the input is in {}", self.name, self.crashes.display());
            return Ok(false);
        }
        let told = Told::read(&told);
        if told.inputs == 0 || told.reached == 0 {
            return Err(format!("nothing was tried: {told}; is it built with counters?"));
        }
        println!("fuzz {}: {told} in {} s, nothing found", self.name, wish.seconds);
        if wish.grow {
            let corpus::Kept { files, bytes, unseen } = corpus::keep(self)?;
            let late = if unseen > 0 { format!("; there was no time for {unseen}") } else { String::new() };
            println!("fuzz {}: {files} inputs are kept, {bytes} bytes{late}", self.name);
        }
        Ok(true)
    }
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    inputs: u64,
    /// Edges of the program that were reached, and all that there are, most of them of libraries.
    reached: u64,
    edges: u64,
}

impl Told {
    fn read(text: &str) -> Told {
        let mut told = Told::default();
        let number = |text: &str| text.split_whitespace().next()?.trim_matches('(').parse().ok();
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once(" cov: ") {
                told.reached = number(rest).unwrap_or(told.reached);
            } else if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
                told.inputs = number(rest).unwrap_or(0);
            } else if let Some((before, _)) = line.split_once(" inline 8-bit counters)") {
                told.edges = before.rsplit(' ').next().and_then(number).unwrap_or(0);
            }
        }
        told
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Told { inputs, reached, edges } = self;
        write!(f, "{inputs} inputs, {reached} of {edges} edges reached,")
    }
}

/// The binaries that the manifest names.
fn names(manifest: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let mut after = text.split("[[bin]]");
    after.next();
    Ok(after.filter_map(|part| part.split('"').nth(1)).map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let text = "INFO: Loaded 1 modules   (15060 inline 8-bit counters): 15060 [0x56, 0x57), \n\
                    #66\tINITED cov: 907 ft: 1963 corp: 59/285b exec/s: 0 rss: 28Mb\n\
                    #96\tDONE   cov: 911 ft: 1970 corp: 60/290b exec/s: 0 rss: 28Mb\n\
                    stat::number_of_executed_units: 96164\n";
        assert_eq!(Told::read(text), Told { inputs: 96164, reached: 911, edges: 15060 });
    }

    #[test]
    fn every_target_has_inputs_and_a_name_of_its_own() {
        let root = cargo::root();
        let mut all = Vec::new();
        for (_, manifest) in PACKAGES {
            all.extend(names(&root.join(manifest)).unwrap());
        }
        all.sort();
        let many = all.len();
        all.dedup();
        assert_eq!(all.len(), many);
        for name in all.iter().filter(|name| *name != "request") {
            let inputs = std::fs::read_dir(root.join("fuzz/corpus").join(name)).map_or(0, Iterator::count);
            assert!(inputs > 0, "fuzz/corpus/{name} is empty: cargo xtask fuzz --grow {name}");
        }
    }
}
