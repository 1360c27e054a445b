//! `cargo xtask deb`: the Debian packages, from a release build.
//!
//! Cargo builds, this lays the result out as it will be installed, and debhelper makes the packages of it: maintainer
//! scripts for the service, the group, the directory and the udev rule are debhelper's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Fault, Words, unknown};
use crate::{cargo, install, tools};

/// From the repository to the installed tree, beside what `cargo xtask install` puts there.
const FILES: &[(&str, &str)] = &[
    ("packaging/nlmmap.toml", "etc/nlmmap.toml"),
    ("packaging/modules-load.d/nlmmap.conf", "usr/lib/modules-load.d/nlmmap.conf"),
    ("README.md", "usr/share/doc/nlmmap/README.md"),
    ("CHANGELOG.md", "usr/share/doc/nlmmap/CHANGELOG.md"),
    ("LICENSE-MIT", "usr/share/doc/nlmmap/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/nlmmap/LICENSE-APACHE"),
];

/// Directories whose files go where the second says, those with this ending.
const DIRECTORIES: &[(&str, &str, &str)] = &[
    ("docs", "usr/share/doc/nlmmap/docs", ".md"),
    ("packaging/container", "usr/share/doc/nlmmap/examples/container", ""),
];

/// What debhelper looks for by name beside its own files.
const BY_NAME: &[(&str, &str)] = &[
    ("packaging/systemd/nlmmap.service", "nlmmap.service"),
    ("packaging/sysusers.d/nlmmap.conf", "nlmmap.sysusers"),
    ("packaging/tmpfiles.d/nlmmap.conf", "nlmmap.tmpfiles"),
    ("udev/60-nlmmap.rules", "nlmmap.udev"),
];

/// What is made.
const PACKAGES: [&str; 3] = ["nlmmap", "libnlmmap0", "libnlmmap-dev"];
/// Where the machine's libraries are: the packages are for this one.
const LIBDIR: &str = "/usr/lib/x86_64-linux-gnu";

/// The version that all packages of the workspace have.
fn version() -> Result<String, String> {
    let manifest = read(&cargo::root().join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    Ok(line.and_then(|rest| rest.split('"').next()).ok_or("Cargo.toml names no version")?.to_owned())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    fs::copy(from, to).map(|_| ()).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

/// Makes the packages.
pub fn main(words: &[String]) -> Result<bool, Fault> {
    let (mut revision, mut words) = ("1", Words::of(words));
    while let Some(word) = words.next() {
        match word {
            "--revision" => revision = words.value(word)?,
            other => return Err(unknown(other)),
        }
    }
    tools::need(&["dh", "dpkg-buildpackage"])?;
    let (root, target) = (cargo::root(), cargo::target_dir()?);
    let out = target.join("deb");
    let build = out.join("build");
    let _ = fs::remove_dir_all(&build);
    let stage = build.join("stage");
    let words = ["--prefix", "/usr", "--libdir", LIBDIR, "--destdir"].map(str::to_owned).into_iter();
    if !install::main(&words.chain([stage.display().to_string()]).collect::<Vec<_>>())? {
        return Ok(false);
    }
    for (from, to) in FILES {
        copy(&root.join(from), &stage.join(to))?;
    }
    for (from, to, ending) in DIRECTORIES {
        let directory = root.join(from);
        let failed = |e: std::io::Error| format!("{}: {e}", directory.display());
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().ends_with(ending) {
                copy(&entry.path(), &stage.join(to).join(entry.file_name()))?;
            }
        }
    }
    for entry in fs::read_dir(root.join("packaging/debian")).map_err(|e| format!("packaging/debian: {e}"))?.flatten() {
        copy(&entry.path(), &build.join("debian").join(entry.file_name()))?;
    }
    for (from, to) in BY_NAME {
        copy(&root.join(from), &build.join("debian").join(to))?;
    }
    let version = format!("{}-{revision}", version()?);
    let made = |package: &str| -> PathBuf { out.join(format!("{package}_{version}_amd64.deb")) };
    for package in PACKAGES {
        // What an earlier run has made is no sign of this one's success.
        let _ = fs::remove_file(made(package));
    }
    // The date that makes a package reproducible is the last commit's; without git, that of the change log.
    let changelog = format!(
        "nlmmap ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- nlmmap maintainers \
         <nlmmap@packages.invalid>  {}\n",
        date(&root)?
    );
    fs::write(build.join("debian/changelog"), changelog).map_err(|e| format!("debian/changelog: {e}"))?;
    let mut command = Command::new("dpkg-buildpackage");
    command.args(["--build=binary", "--no-sign", "--no-check-builddeps"]).current_dir(&build);
    if !command.status().map_err(|e| format!("dpkg-buildpackage: {e}"))?.success() {
        return Ok(false);
    }
    for package in PACKAGES {
        let path = made(package);
        if !path.is_file() {
            return Err(format!("{} was not made", path.display()).into());
        }
        println!("{}", path.display());
    }
    Ok(true)
}

fn date(root: &Path) -> Result<String, String> {
    let log = Command::new("git").args(["log", "-1", "--format=%cD"]).current_dir(root).output();
    if let Ok(log) = log
        && log.status.success()
    {
        return Ok(String::from_utf8_lossy(&log.stdout).trim().to_owned());
    }
    let date = Command::new("date").args(["--rfc-email", "--reference"]).arg(root.join("CHANGELOG.md")).output();
    let date = date.map_err(|e| format!("date: {e}"))?;
    if !date.status.success() {
        return Err(format!("date: {}", String::from_utf8_lossy(&date.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&date.stdout).trim().to_owned())
}
