//! The kinds of clients that run beside each other.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What the clients need to know.
pub struct Places {
    pub nlmmap: PathBuf,
    pub preload: PathBuf,
    pub node: PathBuf,
    pub runtime: PathBuf,
    pub name: String,
    /// Where endpoints are shown.
    pub view: PathBuf,
    pub programs: HashMap<&'static str, PathBuf>,
}

/// How a client has ended.
pub enum Outcome {
    /// As it should.
    Held,
    /// By us.
    Killed,
    Wrong(String),
}

/// One kind: the command of its nth run, and after how long that is killed, if it is.
pub struct Lane {
    pub name: &'static str,
    command: Box<dyn Fn(u64) -> Command + Send + Sync>,
    kill: Option<fn(u64) -> Duration>,
    /// It hangs, if it takes longer.
    patience: Duration,
}

/// For a client of a second or two, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// A queue for packets to port 9999, in a network namespace of its own.
const QUEUE: &str =
    "ip link set lo up && iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5 && exec \"$@\"";

/// Something between, another each time.
fn soon(run: u64) -> Duration {
    Duration::from_millis(20 + run.wrapping_mul(2_654_435_761) % 400)
}

impl Places {
    fn program(&self, name: &str) -> &Path {
        self.programs.get(name).map_or(Path::new("/nonexistent"), PathBuf::as_path)
    }

    /// A program in a network namespace of its own, under the library or with the node.
    fn client(&self, name: &str, setup: &str, through: Option<&Path>, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", setup, "sh"]);
        match through {
            // Only the program itself: not what sets it up.
            None => command.arg("env").arg(format!("LD_PRELOAD={}", self.preload.display())).arg(self.program(name)),
            Some(node) => {
                command.arg(&self.nlmmap).args(["run", "--device"]).arg(node).arg("--").arg(self.program(name))
            }
        };
        command.args(words).env("NLMMAP_VIEW", &self.view).env("NLMMAP_PRELOAD", &self.preload);
        command
    }

    fn asking(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.nlmmap);
        command
            .args(words)
            .args(["--name", &self.name, "--runtime-dir"])
            .arg(&self.runtime)
            .env("NLMMAP_VIEW", &self.view);
        command
    }
}

/// All of them.
pub fn all(places: &Places, time: Duration) -> Vec<Lane> {
    let mut all = Vec::new();
    let mut add = |name, kill, patience, command: Box<dyn Fn(u64) -> Command + Send + Sync>| {
        all.push(Lane { name, command, kill, patience });
    };
    // A third of the time is enough to tell what grows, so that it comes to that three times.
    let seconds = (time.as_secs() / 3).max(10).to_string();
    let own = |places: &Places| Places {
        nlmmap: places.nlmmap.clone(),
        preload: places.preload.clone(),
        node: places.node.clone(),
        runtime: places.runtime.clone(),
        name: places.name.clone(),
        view: places.view.clone(),
        programs: places.programs.clone(),
    };
    let long = PATIENCE + time;
    for (name, device, strict) in [
        ("all kinds of work", false, false),
        ("all kinds of work, strict", false, true),
        ("all kinds of work, device", true, false),
    ] {
        let (p, seconds) = (own(places), seconds.clone());
        add(
            name,
            None,
            long,
            Box::new(move |run| {
                let node = device.then_some(p.node.as_path());
                let mut command = p.client("soak", "exec \"$@\"", node, &[&seconds, &(run + 1).to_string()]);
                if strict {
                    command.env("NLMMAP_STRICT", "1");
                }
                command
            }),
        );
    }
    for (name, device, words) in [
        ("verdicts", false, &["accept", "20000"][..]),
        ("verdicts, device", true, &["accept", "5000"]),
        ("flood of packets", false, &["flood"]),
        ("batches of verdicts, device", true, &["batch"]),
    ] {
        let p = own(places);
        add(
            name,
            None,
            PATIENCE,
            Box::new(move |_| p.client("nfqueue", QUEUE, device.then_some(p.node.as_path()), words)),
        );
    }
    for (name, program, words) in [
        ("dumps of the device's own", "device_dump", &["poll"][..]),
        ("a client that changes its user", "device_move", &[]),
    ] {
        let p = own(places);
        add(
            name,
            None,
            PATIENCE,
            Box::new(move |_| {
                let mut command = Command::new(p.program(program));
                command.arg(&p.node).args(words);
                command
            }),
        );
    }
    let p = own(places);
    add(
        "forks among threads",
        None,
        PATIENCE,
        Box::new(move |run| {
            p.client("fork_new_ring", "exec \"$@\"", None, &[if run % 2 == 0 { "fork" } else { "raw" }])
        }),
    );
    for (name, device) in [("killed", false), ("killed, device", true)] {
        let p = own(places);
        add(
            name,
            Some(soon),
            PATIENCE,
            Box::new(move |run| {
                let words = if run % 2 == 0 { ["busy", "1000"] } else { ["shared", "1000"] };
                p.client("shown", "exec \"$@\"", device.then_some(p.node.as_path()), &words)
            }),
        );
    }
    let p = own(places);
    add(
        "somebody who looks",
        None,
        PATIENCE,
        Box::new(move |run| match run % 3 {
            0 => p.asking(&["stat", "--json"]),
            1 => p.asking(&["capture", "-w", "/dev/null", "--device", "--seconds", "2"]),
            _ => p.asking(&["capture", "-w", "/dev/null", "--seconds", "2"]),
        }),
    );
    all
}

impl Lane {
    /// One client, from its start to its end.
    pub fn run(&self, run: u64) -> Outcome {
        let mut command = (self.command)(run);
        // Of those that are killed standard input stays open: they work until it ends.
        let input = if self.kill.is_some() { Stdio::piped() } else { Stdio::null() };
        let said =
            std::env::temp_dir().join(format!("nlmmap-soak-{}-{}", std::process::id(), self.name.replace(' ', "-")));
        let Ok(file) = File::create(&said) else {
            return Outcome::Wrong(format!("{}: cannot be made", said.display()));
        };
        let outcome = match command.process_group(0).stdin(input).stdout(Stdio::null()).stderr(file).spawn() {
            Ok(child) => self.judge(child, run, &said),
            Err(error) => Outcome::Wrong(format!("{command:?}: {error}")),
        };
        let _ = std::fs::remove_file(said);
        outcome
    }

    fn judge(&self, mut child: Child, run: u64, said: &Path) -> Outcome {
        let begin = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Outcome::Held,
                Ok(Some(status)) => {
                    let mut text = String::new();
                    let _ = File::open(said).and_then(|mut file| file.read_to_string(&mut text));
                    return Outcome::Wrong(format!("{status}: {}", text.trim_end()));
                }
                Ok(None) => {}
                Err(error) => return Outcome::Wrong(error.to_string()),
            }
            let age = begin.elapsed();
            let wish = self.kill.is_some_and(|after| age >= after(run));
            if wish || age >= self.patience {
                if !wish {
                    // What it has started would stand in the way of what is asked at the end.
                    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
                }
                let _ = child.kill();
                let _ = child.wait();
                return if wish { Outcome::Killed } else { Outcome::Wrong(format!("it hangs, after {age:?}")) };
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
