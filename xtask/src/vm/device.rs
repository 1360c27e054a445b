//! `cargo xtask vm device`: the device's tests, the library's over a node, the conformance probe and the udev rule in guests with real
//! Debian kernels.
//!
//! Everything is built here; guests have this machine's files and compile no Rust. Emulated they take hours.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::Report;
use super::{Guest, Result, cache, check, kernel_of, root, script};

/// Seconds for one test program in a guest, how long before its end no further test is begun, and seconds for one test.
const TIMEOUT: u64 = 7200;
const LAST: u64 = 300;
const EACH: u64 = 600;
/// How many times as patient as here tests are there.
const PATIENCE: u32 = 5;
/// What the tests would load by and by, each in the middle of something.
const MODULES: &str = "nfnetlink_queue nfnetlink_log nf_conntrack_netlink nf_tables nft_queue nft_log xt_NFQUEUE xt_NFLOG \
                       xt_conntrack xfrm_user tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag veth dummy bridge";

/// One test program on one kernel.
struct Run {
    suite: &'static str,
    what: &'static str,
    node: &'static str,
}

/// CUSE is all that 6.1 has: passthrough came with 6.9.
const RUNS: [Run; 11] = [
    Run { suite: "trixie", what: "udev", node: "cuse" },
    Run { suite: "bookworm", what: "udev", node: "cuse" },
    Run { suite: "trixie", what: "conformance", node: "cuse" },
    Run { suite: "bookworm", what: "conformance", node: "cuse" },
    Run { suite: "trixie", what: "ring_socket", node: "cuse" },
    Run { suite: "bookworm", what: "ring_socket", node: "cuse" },
    Run { suite: "trixie", what: "through_device", node: "cuse" },
    Run { suite: "bookworm", what: "through_device", node: "cuse" },
    Run { suite: "trixie", what: "through_device", node: "fuse" },
    Run { suite: "trixie", what: "device", node: "cuse" },
    Run { suite: "bookworm", what: "device", node: "cuse" },
];

impl Run {
    fn name(&self) -> String {
        format!("{}-{}-{}", self.suite, self.what, self.node)
    }
}

/// Runs those of which a part of the name `SUITE-WHAT-NODE` begins with any of `words`, all without words; of their tests, behind a
/// `--`, those whose name contains any of the words there.
pub fn main(words: &[&str]) -> Result<u8> {
    let (words, tests) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &[][..]),
    };
    let wanted = |run: &&Run| {
        words.is_empty() || words.iter().any(|word| format!("-{}", run.name()).contains(&format!("-{word}")))
    };
    let runs: Vec<&Run> = RUNS.iter().filter(wanted).collect();
    if runs.is_empty() {
        let all: Vec<String> = RUNS.iter().map(Run::name).collect();
        return Err(format!("none of {}", all.join(", ")));
    }
    let programs = build()?;
    let logs = cache().join("logs");
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let (mut summaries, mut passed) = (Vec::new(), true);
    for run in runs {
        let log = logs.join(run.name());
        println!("== {} (what it prints: {})", run.name(), log.display());
        std::io::stdout().flush().map_err(|error| error.to_string())?;
        let settings = vec![
            ("VM_ROOT", if run.what == "udev" { udev()? } else { "-".into() }),
            ("VM_MEM", "2048".into()),
            ("VM_TIMEOUT", TIMEOUT.to_string()),
            ("VM_MODULES", "fuse cuse".into()),
            ("VM_LOG", log.display().to_string()),
        ];
        let kernel = kernel_of(&format!("{}/full", run.suite))?;
        let guest = Guest { kernel, share: None, settings, command: command(run, &programs, tests)? };
        let status = guest.run()?;
        let report = Report::parse(&fs::read_to_string(&log).unwrap_or_default());
        let ended = match status {
            0 if run.what == "udev" || report.passed() => String::new(),
            status => format!("\n  ended with status {status}"),
        };
        passed &= ended.is_empty();
        summaries.push(report.summary(&run.name()) + &ended);
    }
    println!("\n{}\nvm: {}", summaries.join("\n"), if passed { "all passed" } else { "not all passed" });
    Ok(u8::from(!passed))
}

fn command(run: &Run, programs: &str, tests: &[&str]) -> Result<String> {
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
    let mut words = String::new();
    for word in tests {
        // They become words of a shell's.
        if !word.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)) {
            return Err(format!("{word}: no part of a test's name"));
        }
        words = words + " " + word;
    }
    Ok(format!(
        "export NLMMAP_NODE={} NLMMAP_PATIENCE={PATIENCE} NLMMAP_PRELOAD={}/libnlmmap_preload.so \
         NLMMAP_LIBRARY={folder} NLMMAP_PREFIX={} NLMMAP_EXAMPLES={folder}/examples NLMMAP_CLIENTS={} RUST_BACKTRACE=0; \
         modprobe -qa {MODULES}; bash xtask/vm/tests.sh {program} {EACH} {}{words}",
        run.node,
        cache().join("preload/release").display(),
        prefix().display(),
        root().join("target/clients").display(),
        TIMEOUT - LAST,
    ))
}

/// Where the programs for guests are: a folder of their own, which no build changes under a running guest.
fn built() -> PathBuf {
    cache().join("build/release")
}

/// Where the C library is installed for them.
fn prefix() -> PathBuf {
    cache().join("prefix")
}

/// Builds the tests, the libraries and the programs, fast ones: the guest is slow enough. Gives the tests' paths.
fn build() -> Result<String> {
    let cargo = |args: &[&str], target: &Path| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root()).args(args).env("CARGO_TARGET_DIR", target);
        command
    };
    // This one needs its profile: freestanding, it links only as a whole.
    let preload = ["build", "--quiet", "--release", "-p", "nlmmap-preload"];
    check("building the preload library", &mut cargo(&preload, &cache().join("preload")))?;
    let fast = |args: &[&str]| {
        let mut command = cargo(args, &cache().join("build"));
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        command
    };
    let mut install = fast(&["run", "--quiet", "--release", "-p", "xtask", "--", "install", "--only-c", "--prefix"]);
    check("installing the C library", install.arg(prefix()))?;
    let library = ["build", "--quiet", "--release", "-p", "nlmmap-c", "-p", "nlmmap", "--lib", "--examples"];
    check("building the libraries and the examples", &mut fast(&library))?;
    let mut tests = fast(&["test", "--quiet", "--release", "--no-run", "--message-format=json", "-p", "nlmmap"]);
    tests.args(["--test", "device", "--test", "through_device", "--test", "conformance", "--test", "ring_socket"]);
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
