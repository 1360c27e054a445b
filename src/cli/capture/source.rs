//! Where messages are captured: endpoints of processes, and a daemon's open files.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{Arguments, SEARCH};
use crate::see::asked::Asked;
use crate::see::copies::Copies;
use crate::see::live::is_alive;
use crate::see::place::{self, Found};
use crate::see::seen::family;
use crate::see::served::Served;
use crate::see::tapped::Tapped;
use crate::serve::stat::{self, Entry, Snapshot};

/// What the user has asked for.
pub struct Wish {
    pub pid: Option<u32>,
    pub endpoint: Option<String>,
    processes: bool,
    /// The daemon has to be there.
    device: bool,
}

impl Wish {
    pub fn of(arguments: &Arguments) -> Wish {
        let is_daemons = arguments.endpoint.as_ref().is_some_and(|id| id.contains(':'));
        Wish {
            pid: arguments.pid,
            endpoint: arguments.endpoint.clone(),
            processes: !arguments.device && !is_daemons,
            device: arguments.device || is_daemons,
        }
    }

    /// Whether it is for certain endpoints, which are there or are not.
    pub fn is_some(&self) -> bool {
        self.pid.is_some() || self.endpoint.is_some()
    }

    fn wants(&self, pid: u32, id: &str) -> bool {
        self.pid.is_none_or(|wanted| wanted == pid) && self.endpoint.as_ref().is_none_or(|wanted| wanted == id)
    }
}

/// One of them.
pub enum Source {
    Process(Box<Found>, Box<Tapped>),
    Daemon { handle: u64, copies: Copies },
}

/// A source that is new.
pub struct New {
    pub id: String,
    /// Whose it is, in words, and its family; none while it has no socket.
    pub about: Option<(String, u16)>,
    pub source: Source,
}

impl Source {
    pub fn copies(&mut self) -> &mut Copies {
        match self {
            Source::Process(_, tapped) => &mut tapped.copies,
            Source::Daemon { copies, .. } => copies,
        }
    }
}

/// What cannot be captured, in words: cause and cures.
pub type Refusal = (String, Vec<String>);

struct Daemon {
    name: String,
    asked: Asked,
    served: Served,
    /// What its last answer had, and what of that could not be captured.
    entries: Vec<Entry>,
    left_out: HashSet<u64>,
    /// It had no room for one more, and nothing has ended since.
    full: bool,
}

/// All of them.
pub struct Sources {
    wish: Wish,
    daemon: Option<Daemon>,
}

fn about(entry: &Entry) -> Option<(String, u16)> {
    let number = entry.family?;
    let command: String = entry.command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some((format!("{command}[{}] ({})", entry.pid, family(number)), number as u16))
}

impl Sources {
    /// Those that are asked for.
    ///
    /// # Errors
    /// A daemon that is asked for and cannot be had.
    pub fn new(arguments: &Arguments) -> Result<Sources, Refusal> {
        let wish = Wish::of(arguments);
        let name = match wish.endpoint.as_ref().and_then(|id| id.split_once(':')) {
            Some((name, _)) => name.to_owned(),
            None => arguments.name.clone(),
        };
        let is_processs = wish.endpoint.is_some() && !wish.device;
        let daemon = match Daemon::find(&arguments.runtime_dir, name) {
            Ok(daemon) => Some(daemon),
            Err(refusal) if wish.device => return Err(refusal),
            Err(_) => None,
        };
        Ok(Sources { wish, daemon: daemon.filter(|_| !is_processs) })
    }

    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    /// Whether more may come: a daemon that was asked for is there.
    pub fn may_go_on(&self) -> bool {
        self.wish.processes || self.daemon.is_some()
    }

    /// Open files that were too many.
    pub fn left_out(&self) -> usize {
        self.daemon.as_ref().map_or(0, |daemon| daemon.left_out.len())
    }

    /// Those that are new, beside those that are `known`.
    ///
    /// # Errors
    /// One that was asked for by its name, and cannot be captured.
    pub fn find(&mut self, known: &dyn Fn(&str) -> bool) -> Result<Vec<New>, Refusal> {
        let mut all = Vec::new();
        if self.wish.processes {
            let is_known = |path: &std::path::Path| path.file_name().is_some_and(|name| known(&name.to_string_lossy()));
            for found in place::look_beside(&is_known) {
                if !self.wish.wants(found.seen.pid, &found.id) {
                    continue;
                }
                match Tapped::start(&found) {
                    Ok(tapped) => {
                        let seen = &found.seen;
                        let what = format!("{}[{}] fd {} ({})", seen.command, seen.pid, seen.fd, family(seen.family));
                        let about = Some((what, seen.family as u16));
                        let (id, source) = (found.id.clone(), Source::Process(Box::new(found), Box::new(tapped)));
                        all.push(New { id, about, source });
                    }
                    Err(cause) if self.wish.is_some() => return Err((cause, Vec::new())),
                    // Others can be captured; this one is tried again.
                    Err(_) => {}
                }
            }
        }
        let Some(daemon) = &mut self.daemon else { return Ok(all) };
        daemon.look();
        for entry in &daemon.entries {
            let id = format!("{}:{}", daemon.name, entry.handle);
            let waits = daemon.full && daemon.left_out.contains(&entry.handle);
            if known(&id) || waits || !self.wish.wants(entry.pid, &id) {
                continue;
            }
            match daemon.served.tap(entry.handle) {
                Ok(copies) => {
                    daemon.left_out.remove(&entry.handle);
                    let source = Source::Daemon { handle: entry.handle, copies };
                    all.push(New { id, about: about(entry), source });
                }
                // Closed since.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if self.wish.is_some() => return Err((refused(&id, &error), Vec::new())),
                Err(error) => {
                    daemon.full |= error.raw_os_error() == Some(libc::ENFILE);
                    daemon.left_out.insert(entry.handle);
                }
            }
        }
        Ok(all)
    }

    /// What is known by now of an open file that had no socket.
    pub fn about(&self, id: &str) -> Option<(String, u16)> {
        let daemon = self.daemon.as_ref()?;
        let handle: u64 = id.strip_prefix(&daemon.name)?.strip_prefix(':')?.parse().ok()?;
        about(daemon.entries.iter().find(|entry| entry.handle == handle)?)
    }

    /// Whether nothing more comes from it.
    pub fn is_over(&self, source: &Source) -> bool {
        match source {
            Source::Process(found, _) => found.again().is_none() || !found.users.iter().any(|pid| is_alive(*pid)),
            Source::Daemon { handle, .. } => {
                self.daemon.as_ref().is_none_or(|daemon| !daemon.entries.iter().any(|e| e.handle == *handle))
            }
        }
    }

    /// A daemon that has ended is one no more.
    pub fn leave_ended(&mut self) {
        if self.daemon.as_ref().is_some_and(|daemon| !daemon.served.is_open()) {
            self.daemon = None;
        }
    }

    /// It is over: no more is copied.
    pub fn end(&mut self, source: &Source) {
        if let (Source::Daemon { handle, .. }, Some(daemon)) = (source, &mut self.daemon) {
            daemon.served.end(*handle);
            daemon.full = false;
        }
    }
}

fn refused(id: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => format!("{id}: is captured already"),
        Some(libc::ENFILE) => format!("{id}: too many open files are captured"),
        _ => format!("{id}: cannot be captured: {error}"),
    }
}

impl Daemon {
    fn find(runtime: &std::path::Path, name: String) -> Result<Daemon, Refusal> {
        let path: PathBuf = crate::serve::capture::socket_of(runtime, &name);
        let refusal = |error: &dyn std::fmt::Display, cure: &str| {
            (format!("the daemon {name} cannot be asked: {error}"), vec![cure.to_owned()])
        };
        let served = Served::connect(&path).map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::PermissionDenied => "run it as root",
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "start the daemon (nlmmap serve), or name it: --name, --runtime-dir"
                }
                _ => "see whether daemon and command are of one version",
            };
            refusal(&error, cure)
        })?;
        let control = crate::serve::control_socket(runtime, &name);
        let Snapshot { endpoints, .. } =
            stat::ask(&control).map_err(|silence| refusal(&silence, "see its log; nlmmap stat"))?;
        let asked = Asked::start(control, Duration::from_millis(SEARCH.as_millis() as u64 / 2));
        Ok(Daemon { name, asked, served, entries: endpoints, left_out: HashSet::new(), full: false })
    }

    /// Takes its last answer; where it has none now, the one before holds.
    fn look(&mut self) {
        let entries = &mut self.entries;
        self.asked.last(|answer| {
            if let Some(snapshot) = answer {
                entries.clone_from(&snapshot.endpoints);
            }
        });
        let is_there = |handle: &u64| entries.iter().any(|entry| entry.handle == *handle);
        self.left_out.retain(is_there);
    }
}
