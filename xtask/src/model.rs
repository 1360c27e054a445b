//! The engine under tools that look closer than its tests alone: loom, the address sanitizer (and `miri`).

use crate::cargo;
use std::process::Command;

/// Every order of a few threads' steps: `crates/ring/tests/loom`. A build of its own, since the `loom` flag reaches all crates.
pub fn loom(each: impl FnMut(&str)) -> Result<bool, String> {
    let target = target("loom")?;
    let args = ["test", "--package", "nlmmap-ring", "--release", "--test", "loom", "--target-dir", &target];
    cargo::watch(&args, &[("RUSTFLAGS", &flags("--cfg loom"))], each)
}

/// The engine's tests with memory from the allocator and a wall around each piece of it.
pub fn asan() -> Result<bool, String> {
    if !works(&["+nightly", "--version"]) {
        return Err("there is no nightly toolchain; get one: rustup toolchain install nightly".to_string());
    }
    let target = target("asan")?;
    // The target is named so that the flag does not reach build scripts and macros.
    let host = "x86_64-unknown-linux-gnu";
    let what = ["--package", "nlmmap-ring", "--features", "heap", "--target", host, "--lib", "--test", "engine"];
    let mut command = nightly(&["test", "--target-dir", &target], &what, &[]);
    let status = command.env("RUSTFLAGS", flags("-Zsanitizer=address")).status();
    Ok(status.map_err(|e| format!("cargo +nightly test: {e}"))?.success())
}

/// A target directory of its own, beside the others.
pub fn target(name: &str) -> Result<String, String> {
    let dir = cargo::target_dir()?.join(name);
    dir.into_os_string().into_string().map_err(|_| "the target directory's name is not UTF-8".to_string())
}

fn flags(more: &str) -> String {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    format!("{flags} {more}").trim().to_string()
}

/// Whether rustup's `cargo` can do this. Ours may be another toolchain's own, which knows no `+nightly`.
pub fn works(args: &[&str]) -> bool {
    let output = Command::new("cargo").args(args).env_remove("RUSTUP_TOOLCHAIN").output();
    output.is_ok_and(|output| output.status.success())
}

/// The nightly toolchain's cargo with these arguments, behind a command that runs it (`before`, none).
pub fn nightly(args: &[&str], more: &[&str], before: &[&str]) -> Command {
    let words = [before, &["cargo", "+nightly"], args, more].concat();
    let (program, rest) = words.split_first().unwrap_or((&"cargo", &[]));
    let mut command = Command::new(program);
    command.args(rest).current_dir(cargo::root());
    // Set by the cargo that runs us; they would lead back to its toolchain.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(name);
    }
    command
}
