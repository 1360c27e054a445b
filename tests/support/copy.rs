//! Programs that tests execute.

use std::path::Path;
use std::process::Command;

/// Copies a program, with this mode. Another process does it: a descriptor of ours, open for writing, would be inherited by what
/// other tests start at that moment, and make the program `ETXTBSY`.
pub fn copy(from: &Path, to: &Path, mode: u32) {
    let status = Command::new("install").arg("-m").arg(format!("{mode:o}")).arg(from).arg(to).status();
    assert!(status.expect("install starts").success(), "no copy of {}", from.display());
}
