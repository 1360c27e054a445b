//! The places in the library that call the kernel: its `syscall` instructions, and the lines of its source that they come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::repository;

/// A line of the source that makes a call by whatever way through the wrappers of `ring/src/sys.rs` and `ring/src/socket.rs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// From `crates` on.
    pub file: String,
    pub line: u32,
    pub function: String,
    pub call: String,
}

pub struct Sites {
    /// A build with line numbers.
    pub library: PathBuf,
    /// By the address behind the instruction.
    places: BTreeMap<u64, Site>,
    /// What addresses are above offsets in the file, of code.
    shift: u64,
}

/// One level of what `addr2line` says of an address: function, file, line.
type Frame = (String, String, u32);

impl Sites {
    pub fn of_the_library() -> Sites {
        let library = with_lines();
        let addresses = syscalls(&library);
        let frames = frames(&library, &addresses);
        let places = addresses.iter().zip(&frames).map(|(address, frames)| (address + 2, site(frames))).collect();
        Sites { shift: shift(&library), library, places }
    }

    /// What an offset in the file, as strace gives it, stands for.
    pub fn place(&self, offset: u64) -> Option<Site> {
        self.places.get(&(offset + self.shift)).cloned()
    }

    pub fn all(&self) -> BTreeSet<Site> {
        self.places.values().cloned().collect()
    }
}

/// The library as it is released, with the lines of its code.
fn with_lines() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lines");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "nlmmap-preload", "--target-dir"])
        .arg(&target)
        .envs([("CARGO_PROFILE_RELEASE_STRIP", "none"), ("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")])
        .current_dir(repository())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the library does not build with line numbers");
    target.join("release/libnlmmap_preload.so")
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Addresses of the instructions.
fn syscalls(library: &Path) -> Vec<u64> {
    let text = output(Command::new("objdump").args(["--disassemble", "--no-show-raw-insn"]).arg(library));
    let address = |line: &str| {
        let (address, rest) = line.trim_start().split_once(":\t")?;
        if rest.trim() == "syscall" { u64::from_str_radix(address, 16).ok() } else { None }
    };
    text.lines().filter_map(address).collect()
}

fn shift(library: &Path) -> u64 {
    let text = output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(library));
    let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let code = text.lines().filter(|line| line.contains("LOAD") && line.contains("R E")).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        number(words.get(2)?)?.checked_sub(number(words.get(1)?)?)
    });
    code.expect("a library has code")
}

fn frames(library: &Path, addresses: &[u64]) -> Vec<Vec<Frame>> {
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["--functions", "--inlines", "--demangle", "--addresses", "--exe"]).arg(library);
    let text = output(addr2line.args(addresses.iter().map(|address| format!("{address:#x}"))));
    let mut all: Vec<Vec<Frame>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
        } else if let (Some(frames), Some(at)) = (all.last_mut(), lines.next()) {
            let (file, number) = at.split_once(" (").map_or(at, |(at, _)| at).rsplit_once(':').unwrap_or((at, "0"));
            let file = file.rsplit_once("/crates/").map_or(file, |(_, file)| file);
            frames.push((line.to_string(), file.to_string(), number.parse().unwrap_or(0)));
        }
    }
    all
}

/// The first line outside of the wrappers, and what is called there.
fn site(frames: &[Frame]) -> Site {
    let outside = |(_, file, _): &&Frame| {
        let wrapper = ["ring/src/sys.rs", "ring/src/socket.rs"].contains(&file.as_str());
        !wrapper && (file.starts_with("ring/") || file.starts_with("preload/"))
    };
    let (function, file, line) =
        frames.iter().find(outside).or(frames.last()).cloned().unwrap_or((String::new(), "?".into(), 0));
    let calls: Vec<String> = frames.iter().filter_map(|(_, file, line)| named(file, *line)).collect();
    Site { file, line, function, call: calls.first().cloned().unwrap_or_default() }
}

/// The call that a line of the source names, or one of those around it that are the same statement.
fn named(file: &str, line: u32) -> Option<String> {
    let text = fs::read_to_string(repository().join("crates").join(file)).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let at = (line as usize).checked_sub(1)?;
    let near = [Some(at), at.checked_add(1), at.checked_sub(1)];
    near.into_iter().flatten().filter_map(|at| lines.get(at)).find_map(|line| {
        let (_, name) = line.split_once("Sysno::")?;
        Some(name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
    })
}
