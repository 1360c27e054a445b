//! `cargo xtask vm device`: the device's tests, the conformance probe and the udev rule in guests with real Debian kernels.
//!
//! Everything is built here; guests have this machine's files and compile no Rust. Emulated they take an hour.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::{Guest, Result, cache, check, kernel_of, root, script};

/// Seconds for one test program in a guest, and how many times as patient as here its tests are.
const TIMEOUT: &str = "3000";
const PATIENCE: u32 = 5;
/// What the tests would load by and by, each in the middle of something.
const MODULES: &str = "nfnetlink_queue nfnetlink_log nf_conntrack_netlink nf_tables nft_queue nft_log xt_NFQUEUE xt_NFLOG \
                       xfrm_user tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag veth dummy";

/// One test program on one kernel.
struct Run {
    suite: &'static str,
    what: &'static str,
    node: &'static str,
}

/// CUSE is all that 6.1 has: passthrough came with 6.9.
const RUNS: [Run; 9] = [
    Run { suite: "trixie", what: "udev", node: "cuse" },
    Run { suite: "trixie", what: "conformance", node: "fuse" },
    Run { suite: "trixie", what: "through_device", node: "cuse" },
    Run { suite: "bookworm", what: "udev", node: "cuse" },
    Run { suite: "bookworm", what: "conformance", node: "cuse" },
    Run { suite: "bookworm", what: "through_device", node: "cuse" },
    Run { suite: "bookworm", what: "device", node: "cuse" },
    Run { suite: "trixie", what: "through_device", node: "fuse" },
    Run { suite: "trixie", what: "device", node: "cuse" },
];

/// Runs those whose name `SUITE-WHAT-NODE` contains any of `words`; all without words.
pub fn main(words: &[&str]) -> Result<u8> {
    let name = |run: &Run| format!("{}-{}-{}", run.suite, run.what, run.node);
    let wanted = |run: &&Run| words.is_empty() || words.iter().any(|word| name(run).contains(word));
    let runs: Vec<&Run> = RUNS.iter().filter(wanted).collect();
    if runs.is_empty() {
        let all: Vec<String> = RUNS.iter().map(name).collect();
        return Err(format!("none of {}", all.join(", ")));
    }
    let programs = build()?;
    let mut failed = Vec::new();
    for run in runs {
        println!("== {}", name(run));
        std::io::stdout().flush().map_err(|error| error.to_string())?;
        let extra = if run.what == "udev" { udev()? } else { "-".into() };
        let settings = vec![
            ("VM_ROOT", extra),
            ("VM_MEM", "2048".into()),
            ("VM_TIMEOUT", TIMEOUT.into()),
            ("VM_MODULES", "fuse cuse".into()),
        ];
        let kernel = kernel_of(&format!("{}/full", run.suite))?;
        let guest = Guest { kernel, share: None, settings, command: command(run, &programs)? };
        match guest.run()? {
            0 => {}
            code => failed.push(format!("{}: status {code}", name(run))),
        }
    }
    if failed.is_empty() {
        println!("vm: all passed");
        return Ok(0);
    }
    eprintln!("vm: failed:\n  {}", failed.join("\n  "));
    Ok(1)
}

fn command(run: &Run, programs: &str) -> Result<String> {
    let folder = built();
    let folder = folder.display();
    if run.what == "udev" {
        return Ok(format!("NLMMAP={folder}/nlmmap bash xtask/vm/udev.sh"));
    }
    let program = programs
        .lines()
        .find(|path| {
            path.rsplit_once('/').is_some_and(|(_, file)| file.rsplit_once('-').is_some_and(|p| p.0 == run.what))
        })
        .ok_or_else(|| format!("cargo has built no {}", run.what))?;
    let clients = root().join("target/clients");
    Ok(format!(
        "export NLMMAP_NODE={} NLMMAP_PATIENCE={PATIENCE} NLMMAP_PRELOAD={}/libnlmmap_preload.so \
         NLMMAP_LIBRARY={folder} NLMMAP_CLIENTS={} RUST_BACKTRACE=0; modprobe -qa {MODULES}; \
         {program} --test-threads=1 --nocapture",
        run.node,
        cache().join("preload/release").display(),
        clients.display()
    ))
}

/// Where the programs for guests are: a folder of their own, which no build changes under a running guest.
fn built() -> std::path::PathBuf {
    cache().join("build/release")
}

/// Builds the tests, the library and the programs, fast ones: the guest is slow enough. Gives the tests' paths.
fn build() -> Result<String> {
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root()).env("CARGO_PROFILE_RELEASE_LTO", "off");
        command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        command
    };
    let target = cache().join("build");
    // This one needs its profile: freestanding, it links only as a whole.
    let mut preload = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    preload.current_dir(root()).args(["build", "--quiet", "--release", "-p", "nlmmap-preload", "--target-dir"]);
    check("building the preload library", preload.arg(cache().join("preload")))?;
    let mut library = cargo();
    library.args(["build", "--quiet", "--release", "-p", "nlmmap-c", "--target-dir"]);
    check("building the C library", library.arg(&target))?;
    let mut tests = cargo();
    tests.args(["test", "--quiet", "--release", "--no-run", "--message-format=json", "-p", "nlmmap", "--target-dir"]);
    tests.arg(&target).args(["--test", "device", "--test", "through_device", "--test", "conformance"]);
    let output = tests.stderr(std::process::Stdio::inherit()).output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("building the tests failed".into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    Ok(paths.map(|path| format!("{path}\n")).collect())
}

/// Debian's udev, unpacked and not installed: this machine may have none.
fn udev() -> Result<String> {
    let folder = cache().join("udev");
    if !Path::new(&folder).join(".done").exists() {
        let _ = fs::remove_dir_all(&folder);
        check("fetching udev", script("udev-fetch.sh").arg(&folder))?;
    }
    Ok(folder.display().to_string())
}
