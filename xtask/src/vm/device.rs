//! `cargo xtask vm device`: the device's tests, the library's over a node, the conformance probe and the udev rule in guests with real
//! Debian kernels.
//!
//! Everything is built here; guests have this machine's files and compile no Rust. Emulated they take hours, so that a run may be done
//! in parts (`--resume`).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::{Record, identity};
use super::{Called, Guest, Result, cache, check, kernel_of, script};
use crate::cargo::{self, root};
use crate::command::{Fault, Words, unknown};

/// Seconds for one test program in a guest, how long before its end no further test is begun, and seconds for one test.
const TIMEOUT: u64 = 7200;
const LAST: u64 = 300;
const EACH: u64 = 600;
/// How many times as patient as here tests are there.
const PATIENCE: u32 = 5;
/// Seconds in which clients are killed at any point.
const ENDURE: u32 = 60;
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

/// What is asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish<'a> {
    resume: bool,
    minutes: Option<u64>,
    words: Vec<&'a str>,
    tests: &'a [String],
}

impl<'a> Wish<'a> {
    fn read(words: &'a [String]) -> Called<Wish<'a>> {
        let (words, tests) = match words.iter().position(|word| word == "--") {
            Some(at) => (&words[..at], &words[at + 1..]),
            None => (words, &[][..]),
        };
        let mut wish = Wish { tests, ..Wish::default() };
        // They become words of a shell's.
        if let Some(word) =
            tests.iter().find(|word| !word.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)))
        {
            return Err(Fault::wrong(format!("{word}: no part of a test's name")));
        }
        let mut words = Words::of(words);
        while let Some(word) = words.next() {
            match word {
                "--resume" => wish.resume = true,
                "--minutes" => wish.minutes = Some(words.number(word, 1..=65_535)?),
                option if option.starts_with('-') => return Err(unknown(option)),
                word => wish.words.push(word),
            }
        }
        Ok(wish)
    }

    fn wants(&self, run: &Run) -> bool {
        let name = format!("-{}", run.name());
        self.words.is_empty() || self.words.iter().any(|word| name.contains(&format!("-{word}")))
    }
}

/// Runs those of which a part of the name `SUITE-WHAT-NODE` begins with any of the words, all without words; of their tests, behind a
/// `--`, those whose name contains any of the words there.
pub fn main(words: &[String]) -> Called<u8> {
    let wish = Wish::read(words)?;
    let runs: Vec<&Run> = RUNS.iter().filter(|run| wish.wants(run)).collect();
    if runs.is_empty() {
        let all: Vec<String> = RUNS.iter().map(Run::name).collect();
        return Err(Fault::wrong(format!("{}: none of {}", wish.words.join(" "), all.join(", "))));
    }
    let programs = build()?;
    let end = wish.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let (mut summaries, mut passed) = (Vec::new(), true);
    for run in runs {
        let left = end.map_or(TIMEOUT - LAST, |end| end.saturating_duration_since(Instant::now()).as_secs());
        let (summary, good) = one(run, &programs, &wish, left.min(TIMEOUT - LAST))?;
        passed &= good;
        summaries.push(summary);
    }
    println!("\n{}\nvm: {}", summaries.join("\n"), if passed { "all passed" } else { "not all passed" });
    Ok(u8::from(!passed))
}

/// One run, in which no test is begun after so many seconds: what it has come to, and whether that is good.
fn one(run: &Run, programs: &[PathBuf], wish: &Wish<'_>, seconds: u64) -> Result<(String, bool)> {
    let logs = cache().join("logs");
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let (name, log) = (run.name(), logs.join(run.name()));
    let kernel = kernel_of(&format!("{}/full", run.suite))?;
    let built = identity(programs, &kernel)?;
    let record = Record::of(&name, &built, &log, wish.resume)?;
    if seconds == 0 {
        return Ok((record.report().summary(&name) + "\n  not begun: no time is left", false));
    }
    println!("== {name} (what it prints: {})", log.display());
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    let settings = vec![
        ("VM_ROOT", if run.what == "udev" { udev()? } else { "-".into() }),
        ("VM_MEM", "2048".into()),
        ("VM_TIMEOUT", (seconds + LAST).to_string()),
        ("VM_MODULES", "fuse cuse".into()),
        ("VM_LOG", log.display().to_string()),
    ];
    let command = format!("echo '## built {built}'; {}", command(run, programs, record.path(), seconds, wish.tests)?);
    let status = Guest { kernel, share: None, settings, command }.run()?;
    record.absorb(&log)?;
    let report = record.report();
    let good = status == 0 && report.passed();
    Ok((report.summary(&name) + &if good { String::new() } else { format!("\n  ended with status {status}") }, good))
}

fn command(run: &Run, programs: &[PathBuf], record: &Path, seconds: u64, tests: &[String]) -> Result<String> {
    let folder = built();
    let folder = folder.display();
    if run.what == "udev" {
        return Ok(format!("NLMMAP={folder}/nlmmap bash xtask/vm/udev.sh"));
    }
    let is_it = |path: &&PathBuf| {
        path.file_name()
            .is_some_and(|file| file.to_string_lossy().rsplit_once('-').is_some_and(|(name, _)| name == run.what))
    };
    let program = programs.iter().find(is_it).ok_or_else(|| format!("cargo has built no {}", run.what))?;
    Ok(format!(
        "export NLMMAP_NODE={} NLMMAP_PATIENCE={PATIENCE} NLMMAP_ENDURE={ENDURE} NLMMAP_PRELOAD={} \
         NLMMAP_LIBRARY={folder} NLMMAP_PREFIX={} NLMMAP_EXAMPLES={folder}/examples NLMMAP_CLIENTS={} RUST_BACKTRACE=0; \
         modprobe -qa {MODULES}; bash xtask/vm/tests.sh {} {EACH} {seconds} {} {}",
        run.node,
        preload().display(),
        prefix().display(),
        root().join("target/clients").display(),
        program.display(),
        record.display(),
        tests.join(" "),
    ))
}

/// Where the programs for guests are: a folder of their own, which no build changes under a running guest.
fn built() -> PathBuf {
    cache().join("build/release")
}

/// Where the preload library for them is.
fn preload() -> PathBuf {
    cache().join("preload/release/libnlmmap_preload.so")
}

/// Where the C library is installed for them.
fn prefix() -> PathBuf {
    cache().join("prefix")
}

/// Builds the tests, the libraries and the programs, fast ones: the guest is slow enough. Gives the paths of what is the same as long as
/// its source is, the tests first.
fn build() -> Result<Vec<PathBuf>> {
    let cargo = |args: &[&str], target: &Path| {
        let mut command = cargo::command(args);
        command.env("CARGO_TARGET_DIR", target);
        command
    };
    // This one needs its profile: freestanding, it links only as a whole.
    let freestanding = ["build", "--quiet", "--release", "-p", "nlmmap-preload"];
    check("building the preload library", &mut cargo(&freestanding, &cache().join("preload")))?;
    let fast = |args: &[&str]| {
        let mut command = cargo(args, &cache().join("build"));
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        command
    };
    let mut install = fast(&["run", "--quiet", "--release", "-p", "xtask", "--", "install", "--only-c", "--prefix"]);
    check("installing the C library", install.arg(prefix()))?;
    let library = ["build", "--quiet", "--release", "-p", "nlmmap-c", "-p", "nlmmap", "--lib", "--examples"];
    check("building the libraries and the examples", &mut fast(&library))?;
    let mut tests = fast(&["test", "--quiet", "--release", "--no-run", cargo::NAMED, "-p", "nlmmap"]);
    tests.args(["--test", "device", "--test", "through_device", "--test", "conformance", "--test", "ring_socket"]);
    let mut paths = cargo::programs(&mut tests)?.ok_or("building the tests failed")?;
    paths.extend([built().join("nlmmap"), preload()]);
    Ok(paths)
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

#[test]
fn wishes_are_read() {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let asked = words(&["--resume", "trixie", "--minutes", "20", "udev", "--", "a::b", "c"]);
    let wanted = Wish { resume: true, minutes: Some(20), words: vec!["trixie", "udev"], tests: &words(&["a::b", "c"]) };
    assert_eq!(Wish::read(&asked), Ok(wanted));
    for wrong in [&["--minutes"][..], &["--minutes", "x"], &["--minutes", "0"], &["--part"], &["--", "a;b"]] {
        assert_eq!(Wish::read(&words(wrong)).map_err(|fault| fault.status), Err(2), "{wrong:?}");
    }
}
