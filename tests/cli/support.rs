//! The command under test, the library, and programs to run.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

#[path = "../support/copy.rs"]
mod copying;
pub use copying::copy;

pub const NLMMAP: &str = env!("CARGO_BIN_EXE_nlmmap");

/// The real preload library: the one that NLMMAP_PRELOAD names, else one built for this test.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(path) = env::var_os("NLMMAP_PRELOAD") {
            return fs::canonicalize(path).expect("NLMMAP_PRELOAD names no file");
        }
        let target = Path::new(NLMMAP).ancestors().nth(2).expect("a target directory");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--package", "nlmmap-preload", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the preload library does not build");
        fs::canonicalize(target.join("release/libnlmmap_preload.so")).expect("cargo built the library")
    })
}

/// `nlmmap` with the real library, and nothing in the environment that changes what it does.
pub fn nlmmap() -> Command {
    let mut command = Command::new(NLMMAP);
    clean(&mut command).env("NLMMAP_PRELOAD", library());
    command
}

/// `nlmmap run -- WORDS`.
pub fn run(words: &[&str]) -> Command {
    let mut command = nlmmap();
    command.args(["run", "--"]).args(words);
    command
}

pub fn clean(command: &mut Command) -> &mut Command {
    ["LD_PRELOAD", "NLMMAP_PRELOAD", "NLMMAP_STRICT", "NLMMAP_LOG"]
        .iter()
        .fold(command, |command, name| command.env_remove(name))
}

/// Output as text: status code, stdout, stderr.
pub fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs it, and checks that it was refused: this status, and both texts on stderr, nothing on stdout.
#[track_caller]
pub fn refused(command: &mut Command, code: i32, cause: &str, cure: &str) {
    let (status, out, err) = texts(&command.output().expect("it starts"));
    assert_eq!(status, Some(code), "{err}");
    assert_eq!(out, "", "a refused command prints nothing");
    let mut lines = err.lines();
    assert_eq!(lines.next(), Some(format!("nlmmap: {cause}").as_str()));
    assert!(lines.clone().all(|l| l.starts_with("  cure: ")), "{err}");
    assert!(lines.any(|l| l.contains(cure)), "no cure `{cure}` in:\n{err}");
}

/// A directory that every user may enter.
pub fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    dir
}

/// Writes a file with this mode. Another process does it: a descriptor of ours, open for writing, would be inherited by
/// what other tests start at that moment, and make the file `ETXTBSY`.
pub fn file(dir: &TempDir, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
    let path = dir.path().join(name);
    let mut command = Command::new("install");
    command.arg("-m").arg(format!("{mode:o}")).arg("/dev/stdin").arg(&path).stdin(Stdio::piped());
    let mut child = command.spawn().expect("install starts");
    child.stdin.take().expect("a pipe").write_all(content.as_ref()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
    path
}

/// Compiles a C source.
pub fn compile(dir: &TempDir, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (c, program) = (file(dir, &format!("{name}.c"), source, 0o644), dir.path().join(name));
    let output = Command::new("cc").arg("-o").arg(&program).arg(c).args(flags).output();
    let output = output.expect("a C compiler (apt install gcc libc6-dev)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Whether a memory map, as in /proc/PID/maps, shows the library.
pub fn shows_library(maps: &str, library: &Path) -> bool {
    maps.lines().any(|line| line.split_whitespace().nth(5).is_some_and(|p| Path::new(p) == library))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
