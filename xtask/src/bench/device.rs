//! A daemon for the rows that go through a device node.

use crate::cargo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running daemon; ended, and its files removed, when dropped.
pub struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Builds and starts it, with a ring file of its own.
    pub fn start(folder: &Path) -> Result<Daemon, String> {
        if !cargo::run(&["build", "--quiet", "--release", "--package", "nlmmap"])? {
            return Err("nlmmap does not build".into());
        }
        let folder = folder.join(format!("device-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut serve = Command::new(cargo::target_dir()?.join("release/nlmmap"));
        serve.args(["serve", "--node", "fuse", "--name", &name(), "--mode", "0600", "--log", "error"]);
        serve.arg("--path").arg(folder.join("node")).arg("--runtime-dir").arg(folder.join("run"));
        let child = serve.stdin(Stdio::null()).spawn().map_err(|e| format!("nlmmap serve: {e}"))?;
        let mut daemon = Daemon { child, folder };
        let start = Instant::now();
        while fs::metadata(daemon.node()).is_err() {
            if let Some(status) = daemon.child.try_wait().map_err(|e| format!("nlmmap serve: {e}"))? {
                return Err(format!("nlmmap serve: {status}; the rows through the device need Linux 6.9 or later"));
            }
            if start.elapsed() > Duration::from_secs(20) {
                return Err("nlmmap serve makes no node".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    pub fn node(&self) -> PathBuf {
        self.folder.join("node").join(name())
    }
}

fn name() -> String {
    format!("nlmmap-bench-{}", std::process::id())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM: it unmounts its node.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
