//! Packages as `cargo xtask deb` makes them, and a fresh Debian root to put them into.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::support::repository;

/// Runs it and gives its output; a failure ends the test with all that it said.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// The packages of a revision, made once.
pub fn packages(revision: &str) -> Vec<PathBuf> {
    static MADE: Mutex<BTreeMap<String, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());
    let mut all = MADE.lock().expect("no test has failed here");
    all.entry(revision.to_owned()).or_insert_with(|| make(revision)).clone()
}

fn make(revision: &str) -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["xtask", "deb", "--revision", revision]).current_dir(repository());
    let said = output(&mut command);
    let paths: Vec<PathBuf> = said.lines().filter(|line| line.ends_with("_amd64.deb")).map(PathBuf::from).collect();
    let made: Vec<PathBuf> = paths.into_iter().filter(|path| path.is_absolute()).collect();
    assert_eq!(made.len(), 3, "{said}");
    made
}

/// The Debian mirror that this machine installs from, and its release.
fn source() -> (String, String) {
    let release = fs::read_to_string("/etc/os-release").expect("the name of this system");
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).expect("a Debian system");
    let format = "$(ORIGIN)|$(REPO_URI)";
    let said = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]));
    let mirrors = said.lines().filter_map(|line| line.strip_prefix("Debian|"));
    let mirror = mirrors.filter(|mirror| !mirror.contains("security")).map(str::to_owned).next();
    (mirror.expect("a Debian mirror among the apt sources (apt-get update)"), suite.to_owned())
}

/// A Debian of the smallest kind, in a directory that goes with it.
pub struct Root {
    directory: TempDir,
}

impl Root {
    pub fn new() -> Root {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mirror, suite) = source();
        let mut command = Command::new("mmdebstrap");
        // The small programs that do for a container what systemd does for a machine.
        command.args(["--mode=root", "--variant=minbase", "--quiet"]);
        command.arg("--include=systemd-standalone-sysusers,systemd-standalone-tmpfiles");
        command.arg(&suite).arg(directory.path()).arg(&mirror);
        output(&mut command);
        Root { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a line of shell in it, in a mount namespace that ends with it.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let script =
            "mount -t proc proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && exec chroot \"$1\" /bin/sh -ec \"$2\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--net", "sh", "-c", script, "sh"]);
        output(command.arg(self.directory.path()).arg(line))
    }

    #[track_caller]
    pub fn install(&self, packages: &[PathBuf]) {
        for package in packages {
            let to = self.directory.path().join("tmp").join(package.file_name().expect("a file"));
            fs::copy(package, to).expect("a copy of the package");
        }
        self.run("dpkg --install --force-confold /tmp/*.deb && rm /tmp/*.deb");
    }

    pub fn has(&self, path: &str) -> bool {
        self.directory.path().join(path).symlink_metadata().is_ok()
    }

    /// Every path that packages answer for: not what dpkg, and the list of groups, keep for themselves.
    pub fn files(&self) -> BTreeSet<String> {
        fn walk(top: &Path, at: &Path, all: &mut BTreeSet<String>) {
            // A boot empties `run`.
            const OTHERS: &[&str] =
                &["proc", "run", "dev", "sys", "tmp", "var/lib/dpkg", "var/log", "var/cache", "var/backups"];
            for entry in fs::read_dir(at).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
                let group = ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow", "etc/.pwd.lock"];
                if OTHERS.contains(&name.as_str()) || group.iter().any(|file| name.starts_with(file)) {
                    continue;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(top, &path, all);
                }
                all.insert(name);
            }
        }
        let mut all = BTreeSet::new();
        walk(self.directory.path(), self.directory.path(), &mut all);
        all
    }
}
