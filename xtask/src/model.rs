//! The engine under tools that look closer than its tests alone: loom, miri, the address sanitizer.

use crate::cargo;
use std::process::Command;

/// Every order of a few threads' steps: `crates/ring/tests/loom`. A build of its own, since the `loom` flag reaches all crates.
pub fn loom(each: impl FnMut(&str)) -> Result<bool, String> {
    let target = target("loom")?;
    let args = ["test", "--package", "nlmmap-ring", "--release", "--test", "loom", "--target-dir", &target];
    cargo::watch(&args, &[("RUSTFLAGS", &flags("--cfg loom"))], each)
}

/// The tests of engine and codec in the interpreter: every access checked, against the rules of references and pointers too.
pub fn miri() -> Result<bool, String> {
    if !works(&["+nightly", "miri", "--version"]) {
        let cure = "rustup toolchain install nightly --component miri,rust-src";
        return Err(format!("there is no nightly toolchain with miri; get one: {cure}"));
    }
    let asked = std::env::var("MIRIFLAGS").unwrap_or_default();
    let miri = format!("-Zmiri-strict-provenance -Zmiri-many-seeds=0..4 {asked}");
    let target = target("miri")?;
    let engine = ["--package", "nlmmap-ring", "--lib", "--test", "geometry", "--test", "engine"];
    // The codec reads committed inputs, which isolation would keep from it.
    let codec = ["--package", "cuse-rs", "--lib", "protocol::request"];
    let mut passed = true;
    for (what, more) in [(&engine[..], ""), (&codec, " -Zmiri-disable-isolation")] {
        let args = [&["miri", "test", "--target-dir", &target], what].concat();
        passed &= nightly(&args, &[("MIRIFLAGS", &format!("{}{more}", miri.trim()))])?;
    }
    Ok(passed)
}

/// The engine's tests with memory from the allocator and a wall around each piece of it.
pub fn asan() -> Result<bool, String> {
    if !works(&["+nightly", "--version"]) {
        return Err("there is no nightly toolchain; get one: rustup toolchain install nightly".to_string());
    }
    let target = target("asan")?;
    // The target is named so that the flag does not reach build scripts and macros.
    let host = "x86_64-unknown-linux-gnu";
    let args = [
        "test",
        "--package",
        "nlmmap-ring",
        "--features",
        "heap",
        "--target",
        host,
        "--target-dir",
        &target,
        "--lib",
        "--test",
        "engine",
    ];
    nightly(&args, &[("RUSTFLAGS", &flags("-Zsanitizer=address"))])
}

fn target(name: &str) -> Result<String, String> {
    let dir = cargo::target_dir()?.join(name);
    dir.into_os_string().into_string().map_err(|_| "the target directory's name is not UTF-8".to_string())
}

fn flags(more: &str) -> String {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    format!("{flags} {more}").trim().to_string()
}

/// Whether rustup's `cargo` can do this. Ours may be another toolchain's own, which knows no `+nightly`.
fn works(args: &[&str]) -> bool {
    let output = Command::new("cargo").args(args).env_remove("RUSTUP_TOOLCHAIN").output();
    output.is_ok_and(|output| output.status.success())
}

fn nightly(args: &[&str], env: &[(&str, &str)]) -> Result<bool, String> {
    let mut command = Command::new("cargo");
    command.arg("+nightly").args(args).envs(env.iter().copied()).current_dir(cargo::root());
    // Set by the cargo that runs us; they would lead back to its toolchain.
    ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"].iter().for_each(|name| {
        command.env_remove(name);
    });
    let status = command.status().map_err(|e| format!("cargo +nightly {}: {e}", args.join(" ")))?;
    Ok(status.success())
}
