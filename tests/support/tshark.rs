//! What Wireshark's tshark makes of a capture.

use std::path::Path;
use std::process::Command;

/// What tshark makes of a file.
pub fn tshark(file: &Path, words: &[&str]) -> String {
    let output = Command::new("tshark").args(["-n", "-r"]).arg(file).args(words).output();
    let output = output.expect("tshark (apt install tshark)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Its protocols, direction and comment, a line a packet.
pub fn packets(file: &Path) -> Vec<String> {
    let fields = ["-T", "fields", "-E", "separator=|", "-e", "frame.protocols", "-e", "frame.comment"];
    tshark(file, &fields).lines().map(str::to_owned).collect()
}
