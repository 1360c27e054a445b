//! What guests have shown before: a run that takes hours may be done in parts.
//!
//! `target/vm/results/SUITE-WHAT-NODE` has what the tests of a run have come to, as the guest printed it, behind a line that says with
//! which programs. What others have shown counts for nothing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::Report;
use super::{Result, cache};
use crate::cargo::root;

/// What guests run and read, beside the programs that are built for them. The C library is told by its source: it is linked anew by
/// each build.
const READ: [&str; 9] = [
    "tests",
    "include",
    "examples",
    "udev",
    "xtask/vm",
    "crates/c",
    "docs/security.md",
    "docs/device.md",
    "docs/compat.md",
];

/// The results of one run.
pub struct Record {
    path: PathBuf,
    built: String,
}

impl Record {
    /// That of the run `name` with what `built` names. Without `resume` it begins anew, and else where `log` says that a run was
    /// ended: this program may have been, too.
    pub fn of(name: &str, built: &str, log: &Path, resume: bool) -> Result<Record> {
        let folder = cache().join("results");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let record = Record { path: folder.join(name), built: format!("## built {built}") };
        let before = fs::read_to_string(&record.path).unwrap_or_default();
        if !resume || before.lines().next() != Some(&record.built) {
            record.write(&format!("{}\n", record.built))?;
        }
        if resume {
            record.absorb(log)?;
        }
        Ok(record)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what a guest has printed there, if it was one with these programs.
    pub fn absorb(&self, log: &Path) -> Result<()> {
        let said = fs::read_to_string(log).unwrap_or_default().replace('\r', "");
        if said.lines().any(|line| line == self.built) {
            let mut text = fs::read_to_string(&self.path).unwrap_or_default();
            for line in said.lines().filter(|line| line.starts_with("## ") && *line != self.built) {
                text += line;
                text.push('\n');
            }
            self.write(&text)?;
        }
        Ok(())
    }

    pub fn report(&self) -> Report {
        Report::parse(&fs::read_to_string(&self.path).unwrap_or_default())
    }

    fn write(&self, text: &str) -> Result<()> {
        fs::write(&self.path, text).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// A name for what guests run: these programs on this kernel, and the files of this tree that their tests read.
pub fn identity(programs: &[PathBuf], kernel: &Path) -> Result<String> {
    let listed = Command::new("git").current_dir(root()).args(["ls-files", "-z", "--"]).args(READ).output();
    let listed = listed.map_err(|error| format!("cannot start git: {error}"))?;
    if !listed.status.success() {
        return Err(String::from_utf8_lossy(&listed.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut hasher = DefaultHasher::new();
    kernel.file_name().hash(&mut hasher);
    // Cargo names them in any order.
    let mut programs = programs.to_vec();
    programs.sort();
    for path in programs.into_iter().chain(text.split_terminator('\0').map(|path| root().join(path))) {
        path.hash(&mut hasher);
        // A file that is deleted, and not yet for git, is one that is not there.
        fs::read(&path).unwrap_or_default().hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
