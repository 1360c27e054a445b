//! The fuzz targets of `fuzz/`, each for a bounded time. Built by the toolchain at hand: libFuzzer comes as source.

use crate::{cargo, tools};
use std::path::Path;
use std::process::Command;

/// What libFuzzer steers by: counters on edges, comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Of one input.
const SLOW: u32 = 20;

/// `fuzz [--seconds N] [--grow] [TARGET...]`
pub fn main(args: &[String]) -> Result<bool, String> {
    let (mut seconds, mut grow, mut wanted) = (60, false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => {
                let number = args.next().and_then(|n| n.parse().ok());
                seconds = number.ok_or("fuzz --seconds takes a number")?;
            }
            "--grow" => grow = true,
            other if other.starts_with('-') => return Err(format!("fuzz: no option {other}")),
            target => wanted.push(target.to_string()),
        }
    }
    run(&wanted, seconds, grow)
}

/// Builds all, and runs these (none: each) for so long, from the committed corpus. What is found that is new joins it with `grow`,
/// and else what is in `target/fuzz`.
pub fn run(wanted: &[String], seconds: u32, grow: bool) -> Result<bool, String> {
    tools::need(&["g++"])?;
    let root = cargo::root();
    let target = cargo::target_dir()?.join("fuzz");
    let dir = target.to_str().ok_or("the target directory's name is not UTF-8")?;
    let manifest = "fuzz/Cargo.toml";
    let build = ["build", "--quiet", "--release", "--manifest-path", manifest, "--target", HOST, "--target-dir", dir];
    if !cargo::run_with(&build, &[("RUSTFLAGS", COVERAGE)])? {
        return Ok(false);
    }
    let known = targets(&root.join(manifest))?;
    if let Some(unknown) = wanted.iter().find(|target| !known.contains(target)) {
        return Err(format!("no fuzz target {unknown}; there are {}", known.join(", ")));
    }
    let mut clean = true;
    for name in known.iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        // The codec's inputs are its package's, whose tests read them too.
        let home = if name == "request" { "crates/cuse-rs/fuzz/corpus" } else { "fuzz/corpus" };
        let corpus = root.join(home).join(name);
        let found = target.join("corpus").join(name);
        let crashes = target.join("artifacts").join(name);
        for dir in [&corpus, &found, &crashes] {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let mut command = Command::new(target.join(HOST).join("release").join(name));
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={SLOW}"));
        command.args(["-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1", "-verbosity=0"]);
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        // Rings come and go with each input: their memory stays with the process.
        command.env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296");
        command.args(if grow { [&corpus, &found] } else { [&found, &corpus] });
        let output = command.output().map_err(|e| format!("{name}: {e}"))?;
        let told = String::from_utf8_lossy(&output.stderr);
        let runs = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        if output.status.success() {
            println!("fuzz {name}: {} inputs in {seconds} s, nothing found", runs.unwrap_or("?").trim());
        } else {
            println!("{told}");
            println!("fuzz {name}: FAILED; the input is in {}", crashes.display());
            clean = false;
        }
    }
    Ok(clean)
}

/// The binaries that the manifest names.
fn targets(manifest: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let mut after = text.split("[[bin]]");
    after.next();
    Ok(after.filter_map(|part| part.split('"').nth(1)).map(str::to_string).collect())
}
