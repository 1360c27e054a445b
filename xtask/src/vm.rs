//! `cargo xtask vm`: real Debian kernels under qemu, and the tests that need them.

mod device;
mod record;
mod report;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cargo::{self, root};
use crate::command::{Fault, Words, unknown};

pub const HELP: &str = "\
Real Debian kernels under qemu, without network; apt fetches what is missing.

  vm fetch [SUITE...]        download kernels (default: bookworm trixie)
  vm run [OPTION...] -- CMD  run a shell command as root in a guest
  vm cuse                    the tests of crates/cuse-rs in guests 6.1 and 6.12
  vm device [OPTION...] [WORD...] [-- TEST...]
                             the device's tests, RingSocket's, the conformance probe and the udev rule there
                             (hours): all, or those of which a part of the name SUITE-WHAT-NODE begins with
                             a WORD; of their tests, those whose name has a TEST in it

options of device:
  --resume         not again what these same programs have passed; the exit status judges all, also what
                   runs before have shown
  --minutes N      begin no test after so many; --resume goes on with those that are `unrun`

options of run:
  --suite SUITE    the kernel of this Debian suite (default: trixie); SUITE/full has all modules
  --kernel ABI     a kernel fetched before, by its name
  --share DIR      copied into the guest; the command starts in it
  --out DIR        gets what the command leaves in /mnt/out
  --modules LIST   kernel modules loaded before the command (default: \"fuse cuse\")
  --root DIR       the guest has this machine's files under a layer of memory, with those of DIR
                   (or -, for none) among them; for SUITE/full kernels, which have 9p
  --memory MIB     the guest's memory (default: 512; with --root some 2048)
  --timeout S      seconds until the guest is ended (default: 120)
  --verbose        show the console too

The exit status is the command's; 124 means that time ran out, 125 that the guest did not come up, or that
something went wrong here.";

/// Emulated guests on a busy machine take minutes for what takes seconds here; a hang takes this.
const CUSE_TIMEOUT: &str = "400";
const SUITES: [&str; 2] = ["bookworm", "trixie"];

type Result<T> = std::result::Result<T, String>;
/// What may be the call's fault, too.
type Called<T> = std::result::Result<T, Fault>;

/// Runs `cargo xtask vm WORDS`.
pub fn main(words: &[String]) -> Called<u8> {
    let done = match words.split_first() {
        Some((what, rest)) => match what.as_str() {
            "fetch" => fetch_named(rest),
            "run" => run(rest),
            "cuse" => Words::none(rest).and_then(|()| Ok(cuse()?)),
            "device" => device::main(rest),
            other => Err(unknown(other)),
        },
        None => Err(Fault::wrong("what is it to do?")),
    };
    // A guest's own status may be 1.
    done.map_err(|fault| if fault.status == 1 { Fault { status: 125, ..fault } } else { fault })
}

/// Where kernels are kept.
fn cache() -> PathBuf {
    root().join("target/vm")
}

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(root().join("xtask/vm").join(name));
    command
}

fn status(command: &mut Command) -> Result<u8> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("cannot start {name}: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(125))
}

fn check(what: &str, command: &mut Command) -> Result<()> {
    match status(command)? {
        0 => Ok(()),
        code => Err(format!("{what} failed with status {code}")),
    }
}

/// Installs what the rig needs and this machine lacks.
fn tools() -> Result<()> {
    let needed = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("zstd", "zstd"),
        ("xz", "xz-utils"),
        ("depmod", "kmod"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(tool, _)| !folders.iter().any(|folder| folder.join(tool).is_file()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("vm: installing {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).args(args);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command
    };
    check("apt-get update", &mut apt(&["update"]))?;
    let mut install = apt(&["install", "--yes", "--no-install-recommends"]);
    check("apt-get install (root is needed)", install.args(missing))
}

fn fetch_named(words: &[String]) -> Called<u8> {
    if let Some(option) = words.iter().find(|word| word.starts_with('-')) {
        return Err(unknown(option));
    }
    let suites: Vec<&str> = if words.is_empty() { SUITES.into() } else { words.iter().map(String::as_str).collect() };
    let suites = &suites[..];
    for (suite, abi) in fetch(suites)? {
        println!("{suite} {abi}");
    }
    Ok(0)
}

/// Downloads the newest kernels of these suites and notes their names.
fn fetch(suites: &[&str]) -> Result<BTreeMap<String, String>> {
    tools()?;
    let output = script("fetch.sh")
        .arg(cache())
        .args(suites)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start bash: {error}"))?;
    if !output.status.success() {
        return Err("fetching kernels failed".into());
    }
    let mut kernels = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (suite, abi) = line.split_once(' ').ok_or_else(|| format!("fetch said {line:?}"))?;
        let note = noted(suite);
        fs::write(&note, abi).map_err(|error| format!("cannot write {}: {error}", note.display()))?;
        kernels.insert(suite.to_string(), abi.to_string());
    }
    Ok(kernels)
}

/// The file that names a suite's kernel.
fn noted(suite: &str) -> PathBuf {
    cache().join(format!(".{}", suite.replace('/', "-")))
}

/// The kernel of a suite, fetched when it is not there.
fn kernel_of(suite: &str) -> Result<PathBuf> {
    if let Ok(abi) = fs::read_to_string(noted(suite)) {
        let folder = cache().join(abi.trim());
        if folder.join(".done").exists() {
            tools()?;
            return Ok(folder);
        }
    }
    let kernels = fetch(&[suite])?;
    let abi = kernels.get(suite).ok_or_else(|| format!("suite {suite} has no kernel"))?;
    Ok(cache().join(abi))
}

#[derive(Default)]
struct Guest {
    kernel: PathBuf,
    share: Option<String>,
    settings: Vec<(&'static str, String)>,
    command: String,
}

impl Guest {
    fn run(&self) -> Result<u8> {
        let mut command = script("run.sh");
        command.arg(&self.kernel).arg(self.share.as_deref().unwrap_or("-")).arg(&self.command);
        if std::env::var_os("VM_ACCEL").is_none() {
            command.env("VM_ACCEL", accel(&self.kernel)?);
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        status(&mut command)
    }
}

fn run(words: &[String]) -> Called<u8> {
    let (options, command) = match words.iter().position(|word| word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &[][..]),
    };
    let mut guest = Guest { command: command.join(" "), ..Guest::default() };
    let (mut suite, mut kernel) = ("trixie", None);
    let mut options = Words::of(options);
    while let Some(option) = options.next() {
        match option {
            "--verbose" => guest.settings.push(("VM_VERBOSE", "1".into())),
            "--suite" => suite = options.value(option)?,
            "--kernel" => kernel = Some(options.value(option)?),
            "--share" => guest.share = Some(options.value(option)?.into()),
            "--out" => guest.settings.push(("VM_OUT", options.value(option)?.into())),
            "--modules" => guest.settings.push(("VM_MODULES", options.value(option)?.into())),
            "--root" => guest.settings.push(("VM_ROOT", options.value(option)?.into())),
            "--memory" => guest.settings.push(("VM_MEM", options.number(option, 16..=1 << 20)?.to_string())),
            "--timeout" => guest.settings.push(("VM_TIMEOUT", options.number(option, 1..=1 << 20)?.to_string())),
            other => return Err(unknown(other)),
        }
    }
    if command.is_empty() {
        return Err(Fault::wrong("no command: write it after --"));
    }
    guest.kernel = match kernel {
        Some(abi) if cache().join(abi).join(".done").exists() => cache().join(abi),
        Some(abi) => return Err(format!("kernel {abi} is not fetched: cargo xtask vm fetch").into()),
        None => kernel_of(suite)?,
    };
    Ok(guest.run()?)
}

/// KVM when it truly works, which only a boot tells: it may be there and fail on the first guest.
/// The answer holds until this machine boots again.
fn accel(kernel: &Path) -> Result<&'static str> {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok("tcg");
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = cache().join(".accel");
    let known = fs::read_to_string(&note).unwrap_or_default();
    match known.strip_prefix(boot.trim()).map(str::trim) {
        Some("kvm") => return Ok("kvm"),
        Some("tcg") => return Ok("tcg"),
        _ => {}
    }
    let mut probe = script("run.sh");
    probe.arg(kernel).args(["-", "true"]).env("VM_ACCEL", "kvm").env("VM_TIMEOUT", "20");
    probe.env("VM_MODULES", "").stdout(Stdio::null()).stderr(Stdio::null());
    let works = status(&mut probe)? == 0;
    let accel = if works { "kvm" } else { "tcg" };
    if !works {
        eprintln!("vm: /dev/kvm is there but boots no guest: emulating");
    }
    // Only a cache: a probe more when it cannot be written.
    let _ = fs::write(&note, format!("{} {accel}", boot.trim()));
    Ok(accel)
}

/// The tests of the device crate, linked statically, on both kernels.
fn cuse() -> Result<u8> {
    let share = cache().join("share-cuse");
    let _ = fs::remove_dir_all(&share);
    fs::create_dir_all(&share).map_err(|error| format!("{}: {error}", share.display()))?;
    for (name, path) in static_tests("cuse-rs", &["cuse", "fuse"])? {
        fs::copy(&path, share.join(&name)).map_err(|error| format!("{path}: {error}"))?;
    }
    let mut failed = Vec::new();
    for suite in SUITES {
        let kernel = kernel_of(suite)?;
        // Passthrough came with 6.9: the older kernel shows what is said without it.
        let fuse = match suite {
            "bookworm" => "./fuse a_kernel_without_passthrough",
            _ => "./fuse",
        };
        let both = format!(
            "export CUSE_RS_REQUIRE=1 RUST_BACKTRACE=0; ./cuse --test-threads=1; a=$?; \
             {fuse} --test-threads=1 && exit $a"
        );
        let bare = "./cuse without_the_driver".to_string();
        for (what, modules, command) in [("devices", "fuse cuse", both), ("no driver", "fuse", bare)] {
            println!("== {suite}, {what}");
            std::io::stdout().flush().map_err(|error| error.to_string())?;
            let settings = vec![("VM_TIMEOUT", CUSE_TIMEOUT.to_string()), ("VM_MODULES", modules.to_string())];
            let share = Some(share.to_string_lossy().into_owned());
            let guest = Guest { kernel: kernel.clone(), share, settings, command };
            match guest.run()? {
                0 => {}
                code => failed.push(format!("{suite}, {what}: status {code}")),
            }
        }
    }
    let _ = fs::remove_dir_all(&share);
    if failed.is_empty() {
        println!("vm: all passed");
        return Ok(0);
    }
    let mut text = String::from("failed:");
    for one in &failed {
        let _ = write!(text, "\n  {one}");
    }
    eprintln!("vm: {text}");
    Ok(1)
}

/// Builds test programs that need no library in the guest; gives their names and paths.
fn static_tests(package: &str, tests: &[&str]) -> Result<Vec<(String, String)>> {
    let mut build = cargo::command(&["test", "--no-run", "--quiet", cargo::NAMED, "--package", package]);
    for test in tests {
        build.args(["--test", test]);
    }
    build.args(["--target", "x86_64-unknown-linux-gnu"]);
    build.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    build.env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_PROFILE_TEST_STRIP", "symbols");
    let named = |path: PathBuf| {
        let (name, _) = path.file_name()?.to_str()?.rsplit_once('-')?;
        Some((name.to_string(), path.to_str()?.to_string()))
    };
    let built = cargo::programs(&mut build)?.ok_or("building the tests failed")?;
    let found: Vec<_> =
        built.into_iter().filter_map(named).filter(|(name, _)| tests.contains(&name.as_str())).collect();
    if found.len() == tests.len() { Ok(found) } else { Err(format!("cargo named {found:?}, wanted {tests:?}")) }
}
