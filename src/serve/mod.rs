//! The daemon: a device node whose open files are netlink sockets with rings.
//!
//! | module | promise |
//! | --- | --- |
//! | [`abi`] | the ioctls, equal to `include/nlmmap.h` |
//! | [`node`] | the node, and that nothing of it stays behind |
//! | [`device`] | from requests to open files |
//! | [`file`], [`files`] | one open file: where its socket is, and who waits; all of them |
//! | [`mappers`] | who says to map an open file's rings |
//! | [`caller`] | who calls, and from where |
//! | [`workers`], [`worker`] | nothing happens for a client that it could not do itself, and not in this process |
//! | [`confine`] | what the daemon's own processes do without |
//! | [`socket`] | the real socket |
//! | [`grants`] | policy: the rules, who judges and who sends |
//! | [`police`] | an open file's messages, judged, and sent beyond its client's own rights |
//! | [`memory`] | ring memory that nobody can take away |
//! | [`limits`], [`config`] | how much clients may hold |
//! | [`stat`], [`metrics`], [`capture`], [`log`] | what people see |
//! | [`local`] | socket files |

mod abi;
mod caller;
pub mod capture;
pub mod config;
mod confine;
mod device;
mod file;
mod files;
#[cfg(fuzzing)]
pub mod fuzz;
mod grants;
mod limits;
mod local;
mod log;
mod mappers;
pub mod memory;
mod metrics;
mod node;
mod police;
pub mod socket;
pub mod stat;
mod worker;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use cuse_rs::{Ended, NodeKind};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::level_filters::LevelFilter;

use config::InForce;
use device::Netlink;
use files::Files;
use grants::Grants;
use limits::{Ledger, Limits};
use worker::spawner::Spawner;
use workers::Workers;

const CAP_SYS_ADMIN: u32 = 21;

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fuse,
    Cuse,
    Auto,
}

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: Kind,
    pub name: String,
    /// Directory of the ring file.
    pub path: PathBuf,
    /// Symbolic link to the ring file.
    pub link: Option<PathBuf>,
    pub mode: u32,
    pub group: Option<u32>,
    pub config: Option<PathBuf>,
    /// Log what policy does not grant, and refuse nothing.
    pub audit: bool,
    pub threads: usize,
    pub level: Option<LevelFilter>,
    /// Directory of lock and control socket.
    pub runtime: PathBuf,
}

/// Why the daemon does not run: cause, cures, exit status.
#[derive(Debug)]
pub struct Failure {
    pub cause: String,
    pub cures: Vec<String>,
    pub code: u8,
}

impl Failure {
    fn new(code: u8, cause: impl Into<String>) -> Failure {
        Failure { cause: cause.into(), cures: Vec::new(), code }
    }

    fn cure(mut self, cure: &str) -> Failure {
        self.cures.push(cure.into());
        self
    }

    /// A file or directory that cannot be made or used, in a place that `option` chooses.
    fn at_place(cause: &str, error: &std::io::Error, option: &str) -> Failure {
        let failure = Failure::new(1, format!("{cause}: {error}"));
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => failure.cure(&format!("make room there, or choose another {option}")),
            Some(libc::EROFS) => failure.cure(&format!("it can only be read there: choose another {option}")),
            _ => failure.cure(&format!("put that right, or choose another {option}")),
        }
    }
}

/// The control socket of the daemon called `name`.
pub fn control_socket(runtime: &std::path::Path, name: &str) -> PathBuf {
    runtime.join(format!("{name}.control"))
}

enum Event {
    Signal(i32),
    Ended(Result<Ended, cuse_rs::Error>),
    /// The spawner has ended.
    NoWorkers,
}

fn must_be_root() -> Result<(), Failure> {
    match nix::unistd::getresuid() {
        Ok(ids) if [ids.real, ids.effective, ids.saved].iter().all(|id| id.is_root()) => {}
        _ => {
            let cause = "the daemon must be root, with real, effective and saved user id 0";
            return Err(Failure::new(5, cause).cure("start it as root"));
        }
    }
    // Over a character device it would serve some clients, and fail others where it is to act as they may.
    if worker::enter::permitted().is_ok_and(|caps| caps >> CAP_SYS_ADMIN & 1 == 0) {
        let cause = "the daemon needs CAP_SYS_ADMIN, to mount and to act for its clients, and root here is without";
        let cure = "give it back: CapabilityBoundingSet= of the unit, --cap-add SYS_ADMIN of the container";
        return Err(Failure::new(5, cause).cure(cure));
    }
    Ok(())
}

/// Serves until a signal, or until the kernel takes the node away.
///
/// # Errors
/// Why there is no node, or how it ended badly.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let InForce { level, limits, policy, metrics, warnings } = InForce::read(settings)?;
    crate::sigpipe::ignore();
    must_be_root()?;
    worker::processor::ask_for(worker::processor::SHORT);
    memory::use_small_pages();
    // Before any thread is started: its children may then use everything.
    let spawner = Spawner::start().map_err(|error| Failure::new(1, format!("cannot start the spawner: {error}")))?;
    let kept = confine::kept(settings, metrics.as_ref().and_then(metrics::Place::path));
    let log = log::start(level);
    let log = log.map_err(|error| Failure::new(1, format!("cannot start the thread of the log: {error}")))?;
    node::allow_many_descriptors();

    let (name, runtime) = (&settings.name, &settings.runtime);
    let bad = |what: &str| {
        let text = format!("cannot {what} in {}", runtime.display());
        move |error: std::io::Error| Failure::at_place(&text, &error, "--runtime-dir")
    };
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Failure::new(2, format!("{name:?} cannot be a name: it is part of paths")));
    }
    node::make_runtime(runtime).map_err(bad("make files"))?;
    // Dropped in the reverse order: the lock last.
    let mut lock = node::Lock::take(&runtime.join(format!("{name}.lock")), name)?;
    let (events, received) = mpsc::channel();
    // Before the node: a signal from now on ends it in order.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Failure::new(1, format!("cannot receive signals: {error}")))?;
    let files = Arc::new(Files::default());
    let ledger = Ledger::new(limits);
    let workers = Workers::new(spawner, files.clone(), ledger.clone())
        .map_err(|error| Failure::new(1, format!("cannot make workers: {error}")))?;
    tell(&limits, &warnings);
    if !confine::is_known() {
        tracing::warn!(
            "this machine ({}) is one whose system calls have no filter here: the daemon and its workers have none",
            std::env::consts::ARCH
        );
    }
    let grants = Grants::new(policy, settings.audit, workers.clone(), kept);
    let grants = grants.map_err(|error| Failure::new(1, format!("cannot start threads: {error}")))?;
    let device = |kind: NodeKind| {
        let (workers, files) = (workers.clone(), files.clone());
        let (ledger, grants) = (ledger.clone(), grants.clone());
        Arc::new(Netlink { workers, files, ledger, grants, max_write: node::max_write(kind) })
    };
    // While sockets can be made, and have a group.
    let listener = metrics.as_ref().map(metrics::Listener::bind).transpose()?;
    // In this order: what fails from here on takes the session away first, which unmounts, and then the directory.
    let (node, session) = node::make(settings, &mut lock, device)?;
    // Before the threads that read what strangers send: they inherit it.
    let rights = |error| Failure::new(1, format!("cannot give up rights: {error}"));
    confine::keep_capabilities(kept).map_err(rights)?;
    let lost = events.clone();
    let listening = workers.start(move || drop(lost.send(Event::NoWorkers)));
    let listening = listening.map_err(|error| Failure::new(1, format!("cannot start threads: {error}")))?;
    let control =
        stat::Server::start(&control_socket(runtime, name), name, session.device().clone(), session.observer());
    let control = control.map_err(bad("make the control socket"))?;
    let capture = capture::Server::start(&capture::socket_of(runtime, name), session.device().clone());
    let capture = capture.map_err(bad("make the capture socket"))?;
    let scraped = listener
        .map(|listener| metrics::Server::start(listener, name, session.device().clone(), session.observer()))
        .transpose();
    let scraped = scraped.map_err(|error| Failure::new(1, format!("cannot start threads: {error}")))?;

    // From here on there is nothing to make.
    confine::front().map_err(rights)?;
    let stop = session.stop_token();
    let ended = events.clone();
    let handle = signals.handle();
    let relay = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let _ = events.send(Event::Signal(signal));
            }
        })
        .map_err(|error| Failure::new(1, format!("cannot start threads: {error}")))?;
    // Last: it has the session, which goes away with whatever fails before.
    let count = settings.threads;
    let serving = thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            let result = session.run(count);
            // Nobody listens any more only when the process is about to end.
            let _ = ended.send(Event::Ended(result));
        })
        .map_err(|error| Failure::new(1, format!("cannot start threads: {error}")))?;

    let kind = if node.kind == NodeKind::Fuse { "ring file" } else { "character device" };
    tracing::info!(path = %node.path.display(), threads = count, "serving a {kind}");
    tell_systemd(NotifyState::Ready);

    let (mut outcome, mut failed) = (Ok(()), false);
    for event in &received {
        match event {
            Event::Signal(SIGHUP) => reload(settings, metrics.as_ref(), &ledger, &grants, &log),
            Event::Signal(signal) => {
                tracing::info!(signal, opens = ledger.held().opens, "ending");
                tell_systemd(NotifyState::Stopping);
                stop.stop();
            }
            Event::NoWorkers => {
                tracing::error!("the process that makes workers has ended: nothing can be served without it");
                failed = true;
                stop.stop();
            }
            Event::Ended(result) => {
                outcome = match result {
                    Ok(Ended::Stopped) if failed => Err(Failure::new(1, "the process that makes workers has ended")
                        .cure("somebody has killed it, perhaps for memory: start the daemon again")),
                    Ok(Ended::Stopped) => Ok(()),
                    Ok(Ended::Gone) => Err(Failure::new(1, "the kernel has taken the node away")
                        .cure("somebody has unmounted it or aborted its connection: start the daemon again")),
                    Err(error) => Err(Failure::new(1, error.to_string())),
                };
                break;
            }
        }
    }
    handle.close();
    for thread in [serving, relay] {
        let _ = thread.join();
    }
    drop((control, capture, scraped));
    listening.stop();
    drop(node);
    outcome
}

/// Without systemd there is nobody to tell, and that is no failure.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "cannot tell systemd how far the daemon is: it may wait, and end it");
    }
}

/// Logs the limits, and what is to be said of them.
fn tell(limits: &Limits, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        opens = limits.opens,
        descriptors = limits.descriptors,
        ring_bytes = limits.ring_bytes,
        ring_bytes_per_uid = limits.ring_bytes_per_uid,
        "limits"
    );
}

/// Reads the configuration again: all of it is in force, or nothing is.
fn reload(settings: &Settings, at: Option<&metrics::Place>, ledger: &Ledger, grants: &Grants, log: &log::Log) {
    tell_systemd(NotifyState::Reloading);
    match InForce::read(settings) {
        // It has given up making sockets.
        Ok(now) if now.metrics.as_ref() != at => {
            let told = |place: Option<&metrics::Place>| place.map_or_else(|| "none".to_owned(), ToString::to_string);
            tracing::error!(
                "configuration kept as it was: [metrics] has changed, from {} to {}, which takes a restart",
                told(at),
                told(now.metrics.as_ref())
            );
        }
        Ok(InForce { level, limits, policy, warnings, .. }) => {
            log.set_level(level);
            tell(&limits, &warnings);
            ledger.set_limits(limits);
            grants.set_policy(policy);
            tracing::info!("configuration read");
        }
        Err(failure) => tracing::error!("configuration kept as it was: {}", failure.cause),
    }
    tell_systemd(NotifyState::Ready);
}
