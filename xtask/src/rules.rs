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
    let mut deny = Command::new("cargo");
    deny.arg("deny").current_dir(cargo::root());
    let mut known = Command::new("cargo");
    known.args(["deny", "--version"]);
    if is_there(known) {
        held &= deny.arg("check").status().is_ok_and(|status| status.success());
    } else {
        missing("there is no cargo-deny", "cargo install --locked cargo-deny")?;
    }
    Ok(held)
}
