//! Cargo, called as the one that runs us.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs us, with these words.
pub fn command(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root());
    command
}

/// Runs cargo; whether it succeeded.
pub fn run(args: &[&str]) -> Result<bool, String> {
    let status = command(args).status().map_err(|e| format!("cargo {}: {e}", args.join(" ")))?;
    Ok(status.success())
}

/// As [`run`], with these variables set.
pub fn run_with(args: &[&str], env: &[(&str, &str)]) -> Result<bool, String> {
    let status = command(args).envs(env.iter().copied()).status();
    Ok(status.map_err(|e| format!("cargo {}: {e}", args.join(" ")))?.success())
}

/// Runs cargo with its standard output shown and handed to `each` line by line; whether it succeeded.
pub fn watch(args: &[&str], env: &[(&str, &str)], mut each: impl FnMut(&str)) -> Result<bool, String> {
    let fault = |e: std::io::Error| format!("cargo {}: {e}", args.join(" "));
    let mut child = command(args).envs(env.iter().copied()).stdout(Stdio::piped()).spawn().map_err(fault)?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(fault)?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            each(&line);
        }
    }
    Ok(child.wait().map_err(fault)?.success())
}

/// How programs are built for [`programs`]: what does not compile is told as ever, and not to us.
pub const NAMED: &str = "--message-format=json-render-diagnostics";

/// Runs a cargo that was told [`NAMED`], and gives the programs that it names, if it succeeds.
pub fn programs(cargo: &mut Command) -> Result<Option<Vec<PathBuf>>, String> {
    let output = cargo.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success().then(|| text.lines().filter_map(executable).collect()))
}

/// The program that a message of cargo's is about.
fn executable(message: &str) -> Option<PathBuf> {
    let path = message.split_once("\"executable\":\"")?.1.split_once('"')?.0;
    Some(PathBuf::from(path))
}

/// Runs cargo, and gives what it prints.
pub fn output(args: &[&str]) -> Result<String, String> {
    let output = command(args).output().map_err(|e| format!("cargo {}: {e}", args.join(" ")))?;
    if !output.status.success() {
        return Err(format!("cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where cargo builds, by its own account.
pub fn target_dir() -> Result<PathBuf, String> {
    let fault = "cargo metadata does not name the target directory";
    let output = command(&["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The one field we need, without a JSON library: a path cargo prints holds no quotes.
    let rest = text.split("\"target_directory\":\"").nth(1).ok_or(fault)?;
    Ok(PathBuf::from(rest.split('"').next().ok_or(fault)?))
}

#[test]
fn programs_are_read() {
    let message = r#"{"reason":"compiler-artifact","executable":"/t/debug/deps/engine-1","fresh":true}"#;
    assert_eq!(executable(message), Some(PathBuf::from("/t/debug/deps/engine-1")));
    assert_eq!(executable(r#"{"executable":null}"#), None);
}
