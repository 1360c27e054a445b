//! Where a foreign test runs: a directory and namespaces of its own, for so long; nothing that it starts outlives it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub struct Cage {
    preloads: Vec<PathBuf>,
    directory: PathBuf,
    /// Nothing runs longer.
    end: Instant,
}

pub struct Run {
    /// None where its time was up.
    pub code: Option<i32>,
    /// Standard output; bytes that are no text are replaced.
    pub output: String,
    pub errors: String,
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Cage {
    /// With these libraries in the program that runs in it, until `end` at the latest.
    pub fn new(preloads: Vec<PathBuf>, end: Instant) -> Result<Cage, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, since addresses of sockets are.
        let directory = std::env::temp_dir().join(format!("nlmmap-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("tmp")).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok(Cage { preloads, directory, end })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn run(&self, program: &[&str], args: &[impl AsRef<OsStr>], seconds: u32) -> Result<Run, String> {
        self.run_in(&self.directory, program, args, seconds)
    }

    /// Runs `program` there, with nothing to read.
    pub fn run_in(
        &self,
        there: &Path,
        program: &[&str],
        args: &[impl AsRef<OsStr>],
        seconds: u32,
    ) -> Result<Run, String> {
        let fault = |e: std::io::Error| format!("{}: {e}", self.directory.display());
        let (output, errors) = (self.directory.join("output"), self.directory.join("errors"));
        let mut command = Command::new("timeout");
        let left = self.end.saturating_duration_since(Instant::now()).as_secs() + 1;
        command.args([
            "--signal=KILL",
            &left.min(seconds.into()).to_string(),
            "unshare",
            "--net",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command.args(["--mount-proc", "--", "sh", "-c", "ip link set lo up; \"$@\"; exit $?", "sh", "env"]);
        let preloads: Vec<String> = self.preloads.iter().map(|path| path.display().to_string()).collect();
        if !preloads.is_empty() {
            command.arg(format!("LD_PRELOAD={}", preloads.join(":")));
        }
        command
            .args(program)
            .args(args)
            .current_dir(there)
            .env_remove("LD_PRELOAD")
            .env("TMPDIR", self.directory.join("tmp"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&output).map_err(fault)?)
            .stderr(File::create(&errors).map_err(fault)?);
        let status = command.status().map_err(|e| format!("timeout: {e}"))?;
        let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        // `timeout` kills itself, too, when it has to kill.
        let code = status.code().filter(|code| *code != 124 && *code != 137);
        Ok(Run { code, output: text(&output).map_err(fault)?, errors: text(&errors).map_err(fault)? })
    }
}
