//! How much of engine and codec their own tests and models run through, and that it does not fall.
//!
//! Built with the compiler's own counters; the tools that read them come with the toolchain (`rustup component add llvm-tools`).

use crate::cargo;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOST: &str = "x86_64-unknown-linux-gnu";

/// A part of the workspace whose lines are counted, and how many of a thousand its tests have to run through.
struct Part {
    name: &'static str,
    sources: &'static [&'static str],
    floor: u32,
    /// What is called by nobody but a kernel's clients: processes that other tests start, of whose runs nothing is counted here.
    beside: &'static str,
}

const PARTS: [Part; 3] = [
    Part { name: "engine", sources: &["crates/ring/src"], floor: 810, beside: "ring/src/sys" },
    Part { name: "codec", sources: &["crates/cuse-rs/src/protocol"], floor: 950, beside: "none" },
    Part {
        name: "replies",
        sources: &["crates/cuse-rs/src/reply.rs", "crates/cuse-rs/src/reply"],
        floor: 740,
        beside: "none",
    },
];

/// The tests that count: those without a kernel.
const TESTS: [&str; 10] =
    ["test", "--package", "nlmmap-ring", "--package", "cuse-rs", "--lib", "--test", "engine", "--test", "geometry"];

/// Whether the tools are there; what brings them, if not.
pub fn tools() -> Result<PathBuf, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().map_err(|e| format!("rustc: {e}"))?;
    let dir = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib/rustlib").join(HOST).join("bin");
    if dir.join("llvm-cov").is_file() && dir.join("llvm-profdata").is_file() {
        return Ok(dir);
    }
    Err(format!("{} has no llvm-cov: rustup component add llvm-tools", dir.display()))
}

/// Runs the tests, prints what they reach, file by file, and judges the sums.
pub fn main() -> Result<bool, String> {
    let (tools, target) = (tools()?, cargo::target_dir()?.join("coverage"));
    let dir = target.to_str().ok_or("the target directory's name is not UTF-8")?;
    let counts = target.join("counts");
    let _ = std::fs::remove_dir_all(&counts);
    let flags = format!("{} -Cinstrument-coverage", std::env::var("RUSTFLAGS").unwrap_or_default());
    let each = counts.join("%m-%p.profraw");
    let env = [("RUSTFLAGS", flags.trim()), ("LLVM_PROFILE_FILE", each.to_str().unwrap_or_default())];
    let build = [&TESTS[..], &["--no-run", "--quiet", cargo::NAMED, "--target-dir", dir]].concat();
    let Some(programs) = cargo::programs(cargo::command(&build).envs(env))? else { return Ok(false) };
    if !cargo::run_with(&[&TESTS[..], &["--quiet", "--target-dir", dir]].concat(), &env)? {
        return Ok(false);
    }
    let merged = counts.join("all.profdata");
    let raw = std::fs::read_dir(&counts).map_err(|e| format!("{}: {e}", counts.display()))?;
    let raw: Vec<PathBuf> = raw.flatten().map(|entry| entry.path()).collect();
    let mut merge = Command::new(tools.join("llvm-profdata"));
    let done = merge.args(["merge", "-sparse", "-o"]).arg(&merged).args(&raw).status();
    if !done.is_ok_and(|status| status.success()) {
        return Err("llvm-profdata does not read what the tests have counted".to_string());
    }
    let mut held = true;
    for part in &PARTS {
        let mut report = Command::new(tools.join("llvm-cov"));
        report.args(["report", "--show-branch-summary=false", "--show-region-summary=false"]);
        report.args(["--show-instantiation-summary=false", "--ignore-filename-regex"]);
        report.arg(format!("/tests(/|\\.rs)|{}", part.beside)).arg("--instr-profile").arg(&merged);
        for program in &programs {
            report.arg("--object").arg(program);
        }
        let sources = part.sources.iter().map(|path| cargo::root().join(path));
        let output = report.arg("--sources").args(sources).output();
        let output = output.map_err(|e| format!("llvm-cov: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}", text.trim_end());
        let found = lines(&text).ok_or_else(|| {
            format!("llvm-cov says nothing of the {}: {}", part.name, String::from_utf8_lossy(&output.stderr).trim())
        })?;
        println!("coverage of the {}: {} of a thousand lines, {} wanted", part.name, found, part.floor);
        held &= found >= part.floor;
    }
    if !held {
        println!("coverage has fallen: what is new has no test (the floors are in xtask/src/coverage.rs)");
    }
    Ok(held)
}

/// Of a thousand lines, those that were run: the last line has sums of functions and of lines, each with how many were missed.
fn lines(report: &str) -> Option<u32> {
    let words: Vec<&str> =
        report.lines().rev().find_map(|line| line.strip_prefix("TOTAL"))?.split_whitespace().collect();
    let [.., lines, missed, _] = words.as_slice() else { return None };
    let (lines, missed): (u32, u32) = (lines.parse().ok()?, missed.parse().ok()?);
    lines.checked_sub(missed)?.checked_mul(1000)?.checked_div(lines)
}

#[test]
fn sums_are_read() {
    let report = "Filename  Functions  Missed  Executed  Lines  Missed  Cover\na.rs 3 1 66.67% 10 2 80.00%\n\
                  TOTAL                        3  1  66.67%  4000  90  97.75%\n";
    assert_eq!((lines(report), lines("nothing")), (Some(977), None));
}
