//! The device under test, the clients that try it, and what both kinds of node must do.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod client;
pub mod device;
pub mod scenarios;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Long enough for a machine under load; reaching it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something becomes true.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the machine can run these tests. Where it must, `CUSE_RS_REQUIRE` turns no into failure.
pub fn can_run(driver: &str) -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "root is needed"
    } else if !Path::new(driver).exists() {
        "no such driver"
    } else {
        return true;
    };
    assert!(std::env::var_os("CUSE_RS_REQUIRE").is_none(), "cannot test {driver}: {reason}");
    eprintln!("skipped: cannot test {driver}: {reason}");
    false
}

/// Puts this thread, and those it starts, into a mount namespace of their own: whatever happens to
/// the test, no mount is left behind.
pub fn private_mounts() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("make mounts private");
}

/// Starts this test binary again as another process; `role` is what its `child_process` test does.
pub fn start(role: &str, path: &Path) -> Child {
    command(role, path).spawn().expect("start a child process")
}

pub fn command(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["--exact", "child_process", "--nocapture", "--quiet"]);
    command.env("CUSE_RS_ROLE", role).env("CUSE_RS_NODE", path);
    command.stdout(std::process::Stdio::null());
    command
}

/// What a `child_process` test is asked to be.
pub fn role() -> Option<(String, std::path::PathBuf)> {
    let role = std::env::var("CUSE_RS_ROLE").ok()?;
    // Whatever happens to the test, its children end with it.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("prctl");
    Some((role, std::env::var_os("CUSE_RS_NODE")?.into()))
}

pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}
