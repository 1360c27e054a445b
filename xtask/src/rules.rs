//! What no test of the code can hold: the oldest toolchain that builds it, and what its dependencies may be.

use crate::cargo;
use std::process::Command;

/// `rust-version` of the workspace.
fn oldest() -> Result<String, String> {
    let manifest = cargo::root().join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("rust-version = \""));
    let version = line.and_then(|rest| rest.split('"').next()).ok_or("Cargo.toml states no rust-version")?;
    Ok(version.to_string())
}

/// The same cargo under another toolchain's name, if rustup has it.
fn with(toolchain: &str, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg(format!("+{toolchain}")).args(args).current_dir(cargo::root());
    // Set by the cargo that runs us; they would lead back to its toolchain.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(name);
    }
    command
}

/// What cargo-deny says when it cannot fetch.
const NO_DATABASE: &str = "failed to fetch advisory database";

fn deny(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("deny").args(args).current_dir(cargo::root());
    command
}

fn is_there(mut command: Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Checks both. What is not installed is an error if it is `wanted`, and told else.
pub fn check(wanted: bool) -> Result<bool, String> {
    let missing = |what: &str, cure: &str| {
        let text = format!("{what}: {cure}");
        if wanted {
            return Err(text);
        }
        println!("not checked, {text}");
        Ok(())
    };
    let mut held = true;
    let version = oldest()?;
    if is_there(with(&version, &["--version"])) {
        let target = cargo::target_dir()?.join("oldest");
        let target = target.to_str().ok_or("the target directory's name is not UTF-8")?;
        let args = ["check", "--quiet", "--workspace", "--target-dir", target];
        let builds = with(&version, &args).status().is_ok_and(|status| status.success());
        println!("Rust {version} {} the workspace", if builds { "builds" } else { "does not build" });
        held &= builds;
    } else {
        missing(&format!("there is no Rust {version}"), &format!("rustup toolchain install {version}"))?;
    }
    if !is_there(deny(&["--version"])) {
        missing("there is no cargo-deny", "cargo install --locked cargo-deny")?;
        return Ok(held);
    }
    held &= deny(&["check", "bans", "licenses", "sources"]).status().is_ok_and(|status| status.success());
    // What is known of versions changes every day, and comes from elsewhere: that it cannot be had is no answer.
    let told = deny(&["check", "advisories"]).output().map_err(|e| format!("cargo deny: {e}"))?;
    let text = String::from_utf8_lossy(&told.stderr);
    match text.lines().find(|line| line.contains(NO_DATABASE)) {
        Some(_) if !told.status.success() => {
            missing(
                "advisories of the dependencies",
                "their database (github.com/RustSec/advisory-db) cannot be had from here; \
                 run `cargo deny check advisories` where it can",
            )?;
        }
        _ => {
            print!("{}{text}", String::from_utf8_lossy(&told.stdout));
            held &= told.status.success();
        }
    }
    Ok(held)
}
