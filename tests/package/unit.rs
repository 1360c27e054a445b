//! The unit file: what systemd says of it, and the daemon within its capabilities.

use std::fs;
use std::process::Command;

use crate::daemon::{self, Place};
use crate::root::output;
use crate::support::repository;

/// What `docs/security.md` states.
const EXPOSURE: f32 = 5.9;

fn unit() -> String {
    fs::read_to_string(repository().join("packaging/systemd/nlmmap.service")).expect("the unit")
}

/// The capabilities that the unit leaves, as setpriv wants them.
fn bounding_set() -> String {
    let unit = unit();
    let names =
        unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).flat_map(str::split_whitespace);
    names.fold("-all".to_owned(), |set, name| format!("{set},+{}", name.trim_start_matches("CAP_").to_lowercase()))
}

/// The value of the unit's only line with this option.
fn option(name: &str) -> String {
    let unit = unit();
    let values: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    let [value] = values[..] else { panic!("{name}=: {values:?}") };
    value.to_owned()
}

/// Everything a daemon does, with no more than the unit leaves it: a client of root's, one without rights, in order and out.
#[test]
fn the_daemon_works_within_its_unit() {
    let mut place = Place::new();
    let with_mask = format!("umask {} && exec \"$@\"", option("UMask"));
    let words = ["sh", "-c", &with_mask, "sh", "setpriv", "--no-new-privs", "--bounding-set", &bounding_set()];
    place.wrap = words.map(str::to_owned).to_vec();
    let daemon = place.start();
    daemon::passes(daemon::client("device_dump").args([place.node().as_os_str(), "poll".as_ref()]), &daemon);
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]);
    let client = daemon::client("device_dump");
    daemon::passes(stranger.arg(client.get_program()).args([place.node().as_os_str(), "poll".as_ref()]), &daemon);
    daemon.stop();
}

/// As `systemd-analyze security` counts, without a running systemd.
#[test]
fn the_exposure_of_the_unit_is_what_the_documents_say() {
    let path = repository().join("packaging/systemd/nlmmap.service");
    let mut command = Command::new("systemd-analyze");
    let said = output(command.args(["security", "--offline=yes", "--no-pager"]).arg(&path));
    let words: Vec<&str> = said.lines().last().unwrap_or_default().split_whitespace().collect();
    let number = words.iter().find_map(|word| word.parse::<f32>().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(number <= EXPOSURE, "{number}:\n{said}");
    let stated = fs::read_to_string(repository().join("docs/security.md")).expect("docs/security.md");
    assert!(stated.contains(&format!("{EXPOSURE}")), "docs/security.md states another exposure");
}
