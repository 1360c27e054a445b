//! The unit file: what systemd says of it, and the daemon within its capabilities.

use std::fs;
use std::path::{Path, PathBuf};
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

/// The calls that stand for a word of `SystemCallFilter=`, which may be a set of systemd's.
fn calls(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let said = output(Command::new("systemd-analyze").args(["--no-pager", "syscall-filter", word]));
    let names = said.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    names.flat_map(calls).collect()
}

/// The program that makes systemd's filters of the unit's options, compiled for those that the unit denies.
fn sandbox(directory: &Path) -> PathBuf {
    let words = option("SystemCallFilter");
    let denied = words.strip_prefix('~').expect("a list of what is denied").split_whitespace().flat_map(calls);
    let lines: Vec<String> = denied.map(|name| format!("#ifdef SYS_{name}\nSYS_{name},\n#endif\n")).collect();
    assert!(lines.len() > 30, "{lines:?}");
    fs::write(directory.join("denied.h"), lines.concat()).expect("a header");
    let program = directory.join("sandbox");
    let source = repository().join("tests/package/sandbox.c");
    output(
        Command::new("cc").args(["-O1", "-Wall", "-Werror", "-I"]).arg(directory).arg("-o").arg(&program).arg(source),
    );
    // What the program has built in.
    for (name, value) in [
        ("RestrictNamespaces", "user pid net cgroup"),
        ("RestrictAddressFamilies", "AF_UNIX AF_NETLINK"),
        ("SystemCallArchitectures", "native"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("LockPersonality", "yes"),
        ("NoNewPrivileges", "yes"),
    ] {
        assert_eq!(option(name), value, "{name}=: change tests/package/sandbox.c with it");
    }
    program
}

/// Everything a daemon does, with no more than the unit leaves it: a client of root's, one without rights, in order and out.
#[test]
fn the_daemon_works_within_its_unit() {
    let mut place = Place::new();
    let with_mask = format!("umask {} && exec \"$@\"", option("UMask"));
    let words = ["sh", "-c", &with_mask, "sh", "setpriv", "--no-new-privs", "--bounding-set", &bounding_set()];
    place.wrap = words.map(str::to_owned).to_vec();
    place.wrap.push(sandbox(place.directory.path()).display().to_string());
    let daemon = place.start();
    daemon::passes(daemon::client("device_dump").args([place.node().as_os_str(), "poll".as_ref()]), &daemon);
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]);
    let client = daemon::client("device_dump");
    daemon::passes(stranger.arg(client.get_program()).args([place.node().as_os_str(), "poll".as_ref()]), &daemon);
    // From namespaces of its own, all that a container has.
    let mut contained = Command::new("unshare");
    contained.args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--cgroup"]).arg(client.get_program());
    daemon::passes(contained.args([place.node().as_os_str(), "poll".as_ref()]), &daemon);
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
