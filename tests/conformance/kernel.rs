//! What this kernel has, found out by asking it.

use std::fs;
use std::process::Command;

/// Which cases need more than NETLINK_ROUTE and NETLINK_USERSOCK, and what of.
const NEEDS: &[(&str, &str)] = &[
    ("A16", "user-namespace"),
    ("C16", "generic"),
    ("C26", "uevent"),
    ("J01", "netfilter"),
    ("J03", "netfilter"),
    ("J06", "nfqueue"),
    ("J08", "nfqueue"),
    ("J09", "nflog"),
    ("J10", "nflog"),
    ("J11", "nfqueue"),
    ("J12", "netfilter"),
];

/// The running kernel.
pub struct Kernel {
    release: String,
    version: (u32, u32),
    has: Vec<String>,
}

impl Kernel {
    /// Asks by a small program without the preload.
    pub fn probe() -> Kernel {
        let program =
            crate::support::compile_file("tests/conformance/kernel.c", &["-O1", "-Wall", "-Wextra", "-Werror"]);
        let outcome =
            crate::support::run(Command::new("unshare").arg("--net").arg(program), crate::support::patient(20));
        assert!(outcome.success(), "kernel.c {}", outcome.describe());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel names its release");
        let release = release.trim().to_string();
        let version = parse_version(&release).unwrap_or_else(|| panic!("a release like 6.1, not {release}"));
        Kernel { release, version, has: outcome.stdout.lines().map(str::to_string).collect() }
    }

    /// As `uname -r` says.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether the case of this line has what it needs.
    pub fn can_run(&self, id: &str) -> bool {
        NEEDS
            .iter()
            .filter(|(case, _)| id.split('.').next() == Some(case))
            .all(|(_, what)| self.has.iter().any(|h| h == what))
    }

    /// Whether a condition of differences.txt holds: `any`, `>=6.9`, `<6.9`, or several joined by `&`.
    pub fn meets(&self, condition: &str) -> bool {
        meets(self.version, condition)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn meets(version: (u32, u32), condition: &str) -> bool {
    condition.split('&').all(|part| {
        let known = |text| parse_version(text).unwrap_or_else(|| panic!("a version in the condition {condition}"));
        if part == "any" {
            true
        } else if let Some(v) = part.strip_prefix(">=") {
            version >= known(v)
        } else if let Some(v) = part.strip_prefix('<') {
            version < known(v)
        } else {
            panic!("a condition is any, >=A.B or <A.B, not {part}")
        }
    })
}

#[test]
fn conditions() {
    assert!(meets((6, 12), "any") && meets((6, 12), ">=6.9") && meets((6, 1), "<6.9") && meets((6, 5), ">=6.1&<6.9"));
    assert!(!meets((6, 1), ">=6.9") && !meets((6, 12), "<6.9") && !meets((6, 12), ">=6.1&<6.9"));
    assert_eq!(parse_version("6.18.44-fc"), Some((6, 18)));
}
