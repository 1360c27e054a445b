//! A daemon under the tracer, those who use it while one of its calls fails, and what they and it are to be like then.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::places::Places;
use super::tracer::{End, Fault, Kind, Tracer};
use crate::attacks::Beside;
use crate::cage::MemoryCage;
use crate::daemon::{NLMMAP, Place, client};
use crate::support::{Build, Outcome, compile, patient, preload, run};

/// Who has the grants.
const GRANTED: u32 = 1001;
const NOBODY: u32 = 65533;
/// Seconds that a visit takes at most: a breakpoint at each place makes it slow.
const VISIT: u64 = 40;
const CONFIG: &str = "\
[[policy.rule]]
users = [1001]
family = \"netfilter\"
send = [\"queue/*\"]
queues = [7]
join = [\"conntrack_new\"]
[[policy.rule]]
users = [1001]
family = \"route\"
send = [\"getlink\"]
join = [\"link\", \"brvlan\"]
receive = [\"newlink\", \"newvlan\"]
[[policy.rule]]
users = [1001]
family = \"generic\"
send = [\"nlctrl/getfamily\"]
";

/// Somebody who uses the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visitor {
    /// A mode of `tests/clients/device_faults.c`.
    Client(&'static str),
    /// The same from other namespaces.
    Elsewhere(&'static str),
    /// The same from a control group of its own, which is charged.
    Charged(&'static str),
    /// One of `tests/clients` that bears failures, with the preload library.
    Preloaded(&'static str),
    Stat,
    /// A capture, and a client to capture.
    Capture,
    Metrics,
    Reload,
}

/// A place with everything switched on.
pub fn place() -> Place {
    let mut place = Place::new();
    let text = format!("[metrics]\nlisten = \"unix:{}\"\n{CONFIG}", place.path("metrics").display());
    let (config, link) = (place.configure(&text), place.path("link"));
    place.args =
        ["--config", &config.display().to_string(), "--link", &link.display().to_string()].map(String::from).into();
    place
}

/// A daemon of a test's.
pub struct Scene<'a> {
    place: &'a Place,
    pub tracer: Tracer,
    pub ready: bool,
    cage: Option<&'a MemoryCage>,
}

impl<'a> Scene<'a> {
    /// Starts it, and waits until it is ready or has ended.
    pub fn start(
        place: &'a Place,
        cage: Option<&'a MemoryCage>,
        places: &Arc<Places>,
        record: bool,
        first: Option<Fault>,
    ) -> Scene<'a> {
        let _ = fs::remove_file(place.path("notify"));
        let socket = UnixDatagram::bind(place.path("notify")).expect("a notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out");
        let log = fs::File::create(place.path("log")).expect("a log file");
        let mut command = place.serve();
        command.env("NOTIFY_SOCKET", place.path("notify")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let tracer = Tracer::start(command, places.clone(), record, first, None);
        let mut scene = Scene { place, tracer, ready: false, cage };
        let until = Instant::now() + patient(30);
        while Instant::now() < until && scene.tracer.ended().is_none() {
            // Where it cannot tell systemd it says so, and serves all the same.
            if socket.recv(&mut [0; 64]).is_ok() || scene.log().contains("cannot tell systemd") {
                scene.ready = true;
                break;
            }
        }
        scene
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Asks it to end, and waits.
    pub fn end(&mut self) -> Option<End> {
        if self.tracer.ended().is_none() {
            let _ = kill(Pid::from_raw(self.tracer.pid), Signal::SIGTERM);
        }
        let until = Instant::now() + patient(30);
        while Instant::now() < until {
            if let Some(end) = self.tracer.ended() {
                return Some(end);
            }
            thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn command(&self, visitor: Visitor) -> Command {
        let ours = |mode: &str| {
            let mut words = vec![client("device_faults").get_program().to_owned()];
            words.extend([self.place.node().into(), mode.into()]);
            words
        };
        let mut command = Command::new("unshare");
        let here = |name: &str| {
            let mut command = Command::new(NLMMAP);
            command.arg(name).args(["--name", &self.place.name, "--runtime-dir"]).arg(self.place.path("run"));
            command
        };
        match visitor {
            Visitor::Client("granted") => {
                command.args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh", "setpriv"]);
                command.args([format!("--reuid={GRANTED}"), format!("--regid={GRANTED}"), "--clear-groups".into()]);
                command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]).args(ours("granted"));
            }
            Visitor::Client(mode) => drop(command.arg("--net").args(ours(mode))),
            Visitor::Elsewhere(mode) => {
                command.args(["--user", "--map-root-user", "--net", "--pid", "--cgroup", "--fork"]).args(ours(mode));
                command.uid(NOBODY).gid(NOBODY);
            }
            Visitor::Charged(mode) => {
                command.arg("--net").args(ours(mode));
                if let Some(cage) = self.cage {
                    cage.put(&mut command);
                }
            }
            Visitor::Preloaded(name) => {
                command.args(["--net", NLMMAP, "run", "--device"]).arg(self.place.node()).arg("--");
                command.arg(compile(name, Build::Plain)).env("NLMMAP_PRELOAD", preload());
            }
            Visitor::Stat => {
                command = here("stat");
                command.arg("--json");
            }
            Visitor::Capture => {
                let mut capture = here("capture");
                capture.args(["-w", "/dev/null", "--device", "-c", "4", "--seconds", "1"]);
                // The client's end is looked at, too: it may have given up.
                let both = "\"$0\" \"$1\" calls & shift; \"$@\"; status=$?; wait $!; case $? in 0 | 4) ;; \
                            *) echo \"the client ended with $?\" >&2; exit 99 ;; esac; exit $status";
                command.args(["--net", "sh", "-c", both]).args(&ours("calls")[..2]).arg(capture.get_program());
                command.args(capture.get_args());
            }
            Visitor::Metrics => {
                command = Command::new("curl");
                command.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--unix-socket"]);
                command.arg(self.place.path("metrics")).arg("http://here/metrics");
            }
            Visitor::Reload => {
                command = Command::new("sh");
                let script = "n=$(grep -c 'configuration ' $0); kill -HUP $1; for i in $(seq 2000); do \
                              test $(grep -c 'configuration ' $0) -gt $n && exit 0; sleep 0.005; done; echo nothing >&2; exit 1";
                command.arg("-c").arg(script).arg(self.place.path("log")).arg(self.tracer.pid.to_string());
            }
        }
        command
    }

    /// Whoever has no answer from the daemon cannot even be killed: then the daemon is.
    pub fn visit(&self, visitor: Visitor) -> Outcome {
        let mut command = self.command(visitor);
        let until = Instant::now() + patient(VISIT + 3);
        thread::scope(|scope| {
            let visit = scope.spawn(|| run(&mut command, patient(VISIT)));
            while !visit.is_finished() {
                if Instant::now() > until {
                    let _ = kill(Pid::from_raw(self.tracer.pid), Signal::SIGKILL);
                }
                thread::sleep(Duration::from_millis(1));
            }
            visit.join().expect("it was run")
        })
    }

    /// What is wrong with the end of a visitor while something failed.
    pub fn complaint(&self, visitor: Visitor, outcome: &Outcome) -> Option<String> {
        let told = outcome.stderr.lines().any(|line| line.contains(": "));
        let fine = match (visitor, outcome.code) {
            (_, Some(0)) => true,
            // Given up, or refused, and told why; 125 and above are `nlmmap run`'s own.
            (Visitor::Client(_) | Visitor::Elsewhere(_) | Visitor::Charged(_), Some(4)) => told,
            (Visitor::Preloaded(_), Some(3 | 4 | 125..=127)) => told,
            (Visitor::Stat | Visitor::Capture, Some(1..=5)) => {
                outcome.stderr.lines().any(|l| l.starts_with("nlmmap: "))
            }
            // No answer from the server, or none that is whole; it says which.
            (Visitor::Metrics, Some(7 | 18 | 22 | 52 | 56)) => told,
            _ => false,
        };
        (!fine).then(|| format!("{visitor:?} {}", outcome.describe()))
    }

    /// A stream that is to be whole, whoever else has a failure.
    pub fn witness(&self) -> Witness {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(client("device_faults").get_program()).arg(self.place.node()).arg("witness");
        let mut witness = Beside::start(command.stdin(Stdio::piped()));
        assert_eq!(witness.line(), "ready\n", "the daemon:\n{}", self.log());
        Witness(witness)
    }

    /// Workers that are there now are let alone by failures.
    pub fn spare_workers(&self) {
        let processes = self.tracer.processes().into_iter();
        let workers = processes.filter(|(kind, _)| *kind == Kind::Worker).map(|(_, pid)| pid);
        self.tracer.spare(workers.collect());
    }

    /// What it has when it is at rest: the same twice.
    pub fn rest(&self) -> Held {
        let until = Instant::now() + patient(20);
        let mut before = self.held();
        loop {
            thread::sleep(Duration::from_millis(50));
            let now = self.held();
            if now == before || Instant::now() > until {
                return now;
            }
            before = now;
        }
    }

    /// What the daemon has of what it may have left.
    fn held(&self) -> Held {
        let front = self.tracer.pid;
        let spawner = children(front).first().copied().unwrap_or(0);
        let workers: Vec<i32> = children(spawner);
        let of_workers = |count: fn(i32) -> usize| workers.iter().map(|pid| count(*pid)).sum();
        Held {
            workers: workers.len(),
            threads: entries(front, "task"),
            descriptors: entries(front, "fd"),
            mappings: mappings(front),
            spawner: (entries(spawner, "fd"), mappings(spawner)),
            of_workers: (
                of_workers(|pid| entries(pid, "fd")),
                of_workers(mappings),
                of_workers(|pid| entries(pid, "task")),
            ),
        }
    }

    /// Waits until it has no more than before, but what a worker takes for each that there are more.
    pub fn at_rest(&self, before: &Held, each: &Held) -> Result<(), String> {
        let until = Instant::now() + patient(20);
        loop {
            let now = self.held();
            let more = now.workers.saturating_sub(before.workers);
            let fits = |now: usize, before: usize, each: usize| now <= before + more * each;
            let (of_workers, before_of) = (now.of_workers, before.of_workers);
            if fits(now.threads, before.threads, 0)
                && fits(now.descriptors, before.descriptors, each.descriptors)
                && fits(now.mappings, before.mappings, each.mappings)
                && fits(now.spawner.0, before.spawner.0, 0)
                && fits(now.spawner.1, before.spawner.1, 0)
                && fits(of_workers.0, before_of.0, each.of_workers.0)
                && fits(of_workers.1, before_of.1, each.of_workers.1)
                && fits(of_workers.2, before_of.2, 1)
            {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("something is left: before {before:?}, each worker {each:?}, now {now:?}"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has left nothing behind but what it could not take away, and has said so.
    pub fn is_clean(&self) -> Result<(), String> {
        let (log, lock) = (self.log(), self.place.path("run").join(format!("{}.lock", self.place.name)));
        // Whoever could not take the lock leaves its file to the next; and what is not known of another's rest is its own.
        let could_not_lock = log.contains(&format!("cannot lock {}", lock.display()));
        let knows_little = log.contains("what a killed daemon left is not known");
        let is_told = |path: &Path| {
            let names = |line: &str| line.contains("cannot ") && line.contains(&*path.to_string_lossy());
            log.lines().any(names) || could_not_lock && path == lock || knows_little && path.ends_with("node")
        };
        let run = fs::read_dir(self.place.path("run")).into_iter().flatten().flatten().map(|entry| entry.path());
        let made =
            ["node", "metrics", "link"].map(|name| self.place.path(name)).into_iter().filter(|path| path.exists());
        let left: Vec<_> = run.chain(made).filter(|path| !is_told(path)).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let mounted =
            mounts.contains(&self.place.directory.path().display().to_string()) && !log.contains("unmounting");
        if left.is_empty() && !mounted { Ok(()) } else { Err(format!("left: {left:?}, mounted: {mounted}")) }
    }
}

/// What processes have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    workers: usize,
    threads: usize,
    descriptors: usize,
    mappings: usize,
    spawner: (usize, usize),
    of_workers: (usize, usize, usize),
}

impl Held {
    /// What the workers that there are more take, each.
    pub fn each_since(&self, before: &Held) -> Held {
        let more = (self.workers - before.workers).max(1);
        let each = |now: usize, before: usize| now.saturating_sub(before).div_ceil(more);
        Held {
            workers: 1,
            threads: 0,
            descriptors: each(self.descriptors, before.descriptors),
            mappings: each(self.mappings, before.mappings),
            spawner: (0, 0),
            of_workers: (each(self.of_workers.0, before.of_workers.0), each(self.of_workers.1, before.of_workers.1), 1),
        }
    }
}

pub struct Witness(pub Beside);

impl Witness {
    /// It has had everything, in order.
    pub fn ends_whole(mut self) -> Result<(), String> {
        drop(self.0.0.stdin.take());
        let line = self.0.line();
        if self.0.succeeds() && line.ends_with(" messages\n") { Ok(()) } else { Err(format!("the witness: {line}")) }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

fn entries(pid: i32, what: &str) -> usize {
    fs::read_dir(Path::new("/proc").join(pid.to_string()).join(what)).map_or(0, Iterator::count)
}

/// Mappings of memory that is shared.
fn mappings(pid: i32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|how| how.ends_with('s'))).count()
}
