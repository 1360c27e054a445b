//! Programs that the tests call, and the Debian packages that bring them.

use std::path::Path;
use std::process::Command;

/// Program and package.
const TOOLS: &[(&str, &str)] = &[
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("musl-gcc", "musl-tools"),
    ("go", "golang-go"),
    ("ip", "iproute2"),
    ("iptables-legacy", "iptables"),
    ("unshare", "util-linux"),
    ("pkg-config", "pkg-config"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("tshark", "tshark"),
    ("valgrind", "valgrind"),
    ("python3", "python3"),
    ("perl", "perl"),
    ("dh", "debhelper"),
    ("dpkg-buildpackage", "dpkg-dev"),
    ("mmdebstrap", "mmdebstrap"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("systemd-analyze", "systemd"),
];

/// Files and the packages that bring them.
const FILES: &[(&str, &str)] = &[
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/include/linux/netlink.h", "linux-libc-dev"),
    ("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "libjemalloc2"),
];

/// The tools of every test.
pub fn all() -> Vec<&'static str> {
    TOOLS.iter().map(|&(tool, _)| tool).collect()
}

fn is_there(tool: &str) -> bool {
    // iptables and ip lie in sbin, which a user's PATH may leave out.
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(tool).is_file())
}

/// Installs with apt those that are missing.
pub fn need(tools: &[&str]) -> Result<(), String> {
    let mut packages: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| tools.contains(tool) && !is_there(tool)).map(|&(_, package)| package).collect();
    packages.extend(FILES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|&(_, package)| package));
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)
}

/// Installs packages with apt.
pub fn install(packages: &[&str]) -> Result<(), String> {
    let by_hand = format!("install them by hand: {}", packages.join(" "));
    if !is_there("apt-get") {
        return Err(format!("packages are missing and there is no apt-get; {by_hand}"));
    }
    println!("installing {}", packages.join(" "));
    apt(&["update", "--quiet"], &by_hand)?;
    let mut install = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(packages);
    apt(&install, &by_hand)
}

fn apt(args: &[&str], by_hand: &str) -> Result<(), String> {
    let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("apt-get {} failed (does it run as root?); {by_hand}", args[0])),
        Err(e) => Err(format!("apt-get: {e}; {by_hand}")),
    }
}
