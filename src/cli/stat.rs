//! `nlmmap stat`: what sockets with rings do, in a daemon's open files and in preloaded processes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

mod processes;

use super::complain;
use crate::see::{missed, prometheus};
use crate::serve::stat::{self, Entry, Ring, Silence, Snapshot};

/// Show sockets with rings: those of a daemon's open files, and those of processes that have the library.
///
/// Processes show themselves in their user's runtime directory, unless NLMMAP_VIEW=off: a user sees their own, root sees
/// all. A daemon's are for root.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Show this daemon, by the name of its node, and no processes
    #[arg(long)]
    name: Option<String>,

    /// As one JSON object
    #[arg(long)]
    json: bool,

    /// As text for Prometheus, say for the textfile collector of its node exporter
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,

    /// Directory of the daemon's control socket
    #[arg(long, value_name = "DIR", default_value = "/run/nlmmap")]
    runtime_dir: PathBuf,
}

const HELP: &str = "\
Examples:
  sudo nlmmap stat
  nlmmap stat --json | jq '.processes[] | select(.overruns > 0)'
  sudo nlmmap stat --json --name nlmmap | jq '.endpoints[] | select(.overruns > 0)'
  sudo nlmmap stat --prometheus > /var/lib/prometheus/node-exporter/nlmmap.prom

Columns: FRAMES came through the RX ring, COPIES had to be read, SENT are frames of the TX ring; OCCUPIED frames wait \
for the client.";

/// What there is to see.
#[derive(Serialize)]
struct All {
    #[serde(flatten)]
    daemon: Option<Snapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<processes::Entry>>,
}

impl Arguments {
    /// Asks the daemon, if one was named or is there, and looks for processes, if none was named.
    fn look(&self) -> Result<All, (String, Vec<String>)> {
        let name = self.name.as_deref().unwrap_or("nlmmap");
        let socket = crate::serve::control_socket(&self.runtime_dir, name);
        let (answer, processes) = (stat::ask(&socket), self.name.is_none().then(processes::all));
        let silence = match answer {
            Ok(snapshot) => return Ok(All { daemon: Some(snapshot), processes }),
            Err(silence) => silence,
        };
        let none = match &silence {
            Silence::Error(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied
            ),
            Silence::Stopped(_) | Silence::Busy(_) | Silence::Mute => false,
        };
        if none && processes.as_ref().is_some_and(|all| self.json || self.prometheus || !all.is_empty()) {
            return Ok(All { daemon: None, processes });
        }
        let mut cures = vec![match &silence {
            Silence::Stopped(pid) => format!("let it go on: kill -CONT {pid}"),
            Silence::Busy(_) | Silence::Mute => {
                "try again; if that does not help, see its log and restart it".to_owned()
            }
            Silence::Error(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "start the daemon: nlmmap serve",
                io::ErrorKind::PermissionDenied => "run it as root",
                _ => "see whether daemon and command are of one version",
            }
            .to_owned(),
        }];
        if none && self.name.is_none() {
            cures
                .push("or a program with the library, of which there is none to see: nlmmap run -- PROGRAM".to_owned());
        }
        Err((format!("{}: {silence}", socket.display()), cures))
    }
}

pub fn main(arguments: &Arguments) -> ExitCode {
    let all = arguments.look();
    missed::tell();
    let all = match all {
        Ok(all) => all,
        Err((cause, cures)) => {
            complain(&cause, &cures);
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        match serde_json::to_string(&all) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                complain(&error, &[]);
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    if arguments.prometheus {
        let processes = all.processes.iter().flatten().map(|entry| (entry.id.as_str(), &entry.seen));
        print!("{}", prometheus::text(all.daemon.as_ref(), processes));
        return ExitCode::SUCCESS;
    }
    if let Some(daemon) = &all.daemon {
        print(daemon);
    }
    if let Some(processes) = all.processes.filter(|all| !all.is_empty()) {
        processes::print(&processes);
    }
    ExitCode::SUCCESS
}

fn print(snapshot: &Snapshot) {
    println!(
        "{} (pid {}): {} of {} open, {} of {} KiB of rings ({} charged to clients' control groups), {} of {} descriptors",
        snapshot.name,
        snapshot.pid,
        snapshot.opens,
        snapshot.limits.opens,
        snapshot.ring_bytes >> 10,
        snapshot.limits.ring_bytes >> 10,
        snapshot.paid_bytes >> 10,
        snapshot.descriptors,
        snapshot.limits.descriptors
    );
    if let Some(why) = &snapshot.unpaid {
        println!(
            "rings are charged to the daemon's control group, where the client's cannot be: {}",
            why.escape_default()
        );
    }
    println!(
        "{:>6} {:>7} {:>6} {:16} {:>6} {:>12} {:>12} {:>8} {:>10} {:>8} {:>8} {:>8}",
        "HANDLE", "PID", "UID", "COMMAND", "FAMILY", "RX", "TX", "OCCUPIED", "FRAMES", "COPIES", "SENT", "OVERRUNS"
    );
    snapshot.endpoints.iter().for_each(line);
}

fn line(e: &Entry) {
    let ring = |ring: &Option<Ring>| {
        ring.as_ref().map_or_else(|| "-".to_owned(), |ring| format!("{}x{}", ring.frames, ring.frame_size))
    };
    let family = e.family.map_or_else(|| "-".to_owned(), |family| family.to_string());
    println!(
        "{:>6} {:>7} {:>6} {:16} {:>6} {:>12} {:>12} {:>8} {:>10} {:>8} {:>8} {:>8}",
        e.handle,
        e.pid,
        e.uid,
        e.command.escape_default().to_string(),
        family,
        ring(&e.rx),
        ring(&e.tx),
        e.occupied,
        e.rx_frames,
        e.rx_copies,
        e.tx_frames,
        e.overruns
    );
}
