//! The daemon that the clients share: what it holds, and what it may hold in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::lanes::Places;

/// Memory that allocators may keep of what there was at most, in KiB: beside that, it must be flat.
const SLACK_KB: u64 = 4096;
/// Until workers that nobody needs have gone.
const SETTLING: Duration = Duration::from_secs(120);

/// What the daemon's processes have at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The front's.
    pub descriptors: u64,
    pub threads: u64,
    pub memory_kb: u64,
    /// Spawner and workers.
    pub processes: u64,
    /// The most of a worker.
    pub worker_kb: u64,
    pub worker_descriptors: u64,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    home: PathBuf,
    name: String,
    before: Held,
}

fn count(path: &Path) -> u64 {
    fs::read_dir(path).map_or(0, |entries| entries.count() as u64)
}

fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processes and their parents.
fn parents() -> Vec<(u32, u32)> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

impl Daemon {
    /// Starts one, and waits until it answers.
    pub fn start(nlmmap: &Path, home: &Path) -> Result<Daemon, String> {
        let name = format!("soak-{}", std::process::id());
        fs::write(home.join("config.toml"), "[limits]\nopens = 2000\n").map_err(|e| e.to_string())?;
        let log = fs::File::create(home.join("log")).map_err(|e| e.to_string())?;
        let mut command = Command::new(nlmmap);
        command.args(["serve", "--mode", "0666", "--log", "warn", "--name", &name]);
        command.arg("--runtime-dir").arg(home.join("run")).arg("--path").arg(home.join("node"));
        command.arg("--config").arg(home.join("config.toml")).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|e| format!("{}: {e}", nlmmap.display()))?;
        let mut daemon = Daemon { child, home: home.to_path_buf(), name, before: Held::default() };
        let until = Instant::now() + Duration::from_secs(30);
        while daemon.opens(nlmmap).is_none() {
            let ended = daemon.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > until {
                let log = fs::read_to_string(home.join("log")).unwrap_or_default();
                return Err(format!("the daemon does not start: {}", log.trim_end()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        daemon.before = daemon.held();
        Ok(daemon)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn runtime(&self) -> PathBuf {
        self.home.join("run")
    }

    pub fn node(&self) -> PathBuf {
        self.home.join("node").join(&self.name)
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").args([name, &self.child.id().to_string()]).status();
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        self.signal("-HUP");
    }

    /// Open files; none if it does not answer.
    fn opens(&self, nlmmap: &Path) -> Option<u64> {
        let mut command = Command::new(nlmmap);
        command.args(["stat", "--prometheus", "--name", &self.name, "--runtime-dir"]).arg(self.runtime());
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("nlmmap_daemon_opens{"))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    pub fn held(&self) -> Held {
        let front = self.child.id();
        let of = |pid: u32, what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        let parents = parents();
        let children = |of: u32| parents.iter().filter(move |(_, parent)| *parent == of).map(|(pid, _)| *pid);
        let below: Vec<u32> = children(front).flat_map(|child| [child].into_iter().chain(children(child))).collect();
        Held {
            descriptors: count(&of(front, "fd")),
            threads: count(&of(front, "task")),
            memory_kb: memory(front),
            processes: below.len() as u64,
            worker_kb: below.iter().map(|pid| memory(*pid)).max().unwrap_or(0),
            worker_descriptors: below.iter().map(|pid| count(&of(*pid, "fd"))).max().unwrap_or(0),
        }
    }

    /// What has grown from the middle third to the last, where all of it had been there before.
    pub fn growth(&self, samples: &[Held]) -> Vec<String> {
        let third = samples.len() / 3;
        let (Some(middle), Some(last)) = (samples.get(third..2 * third), samples.get(2 * third..)) else {
            return Vec::new();
        };
        let most = |of: &[Held], field: fn(&Held) -> u64| of.iter().map(field).max().unwrap_or(0);
        let mut wrong = Vec::new();
        for (name, field) in [("the front", (|h| h.memory_kb) as fn(&Held) -> u64), ("a worker", |h| h.worker_kb)] {
            let (before, now) = (most(middle, field), most(last, field));
            println!("  memory of {name:18} {before:>7} KiB at most in the middle third, {now} in the last");
            if now > before + before / 20 + SLACK_KB {
                wrong.push(format!("memory of {name} grows: {before} KiB, then {now}"));
            }
        }
        let threads = most(samples, |h| h.threads);
        if threads > self.before.threads {
            wrong.push(format!("the front had {} threads, then {threads}", self.before.threads));
        }
        wrong
    }

    /// Nobody uses it any more: it has to hold what it held before anybody did, and to leave nothing when it ends.
    pub fn end(mut self, places: &Places) -> Vec<String> {
        let mut wrong = Vec::new();
        let until = Instant::now() + SETTLING;
        let same = |now: &Held| (now.descriptors, now.threads, now.processes);
        while (self.opens(&places.nlmmap) != Some(0) || same(&self.held()) != same(&self.before))
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(500));
        }
        let (opens, now) = (self.opens(&places.nlmmap), self.held());
        println!("  the daemon before          {:?}\n  the daemon behind          {now:?}", self.before);
        if opens != Some(0) || same(&now) != same(&self.before) {
            wrong.push(format!("{opens:?} files are open, and it holds {now:?}, not {:?}", self.before));
        }
        // What killed ones have left goes at a look.
        let looked = Command::new(&places.nlmmap).arg("stat").env("NLMMAP_VIEW", &places.view).output();
        let shown = count(&places.view);
        if looked.is_err() || shown > 0 {
            let names = fs::read_dir(&places.view).into_iter().flatten().flatten().map(|entry| entry.file_name());
            wrong.push(format!("{shown} files of endpoints are left: {:?}", names.collect::<Vec<_>>()));
        }
        self.signal("-TERM");
        let until = Instant::now() + Duration::from_secs(30);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                _ if Instant::now() > until => break None,
                _ => thread::sleep(Duration::from_millis(20)),
            }
        };
        if !status.is_some_and(|status| status.success()) {
            let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
            wrong.push(format!("the daemon ended with {status:?}: {}", log.trim_end()));
        }
        if count(&self.runtime()) > 0 || self.home.join("node").exists() {
            wrong.push("the daemon has left files behind".into());
        }
        wrong
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Where something went wrong before its end. A killed one leaves its mount.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(self.home.join("node")).status();
        }
    }
}
