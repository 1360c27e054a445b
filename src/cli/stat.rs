//! `nlmmap stat`: what a daemon's open files do.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::complain;
use crate::serve::stat::{self, Entry, Ring, Silence};

/// Show the open files of a daemon: clients, rings, messages.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Name of the daemon's node
    #[arg(long, default_value = "nlmmap")]
    name: String,

    /// As one JSON object
    #[arg(long)]
    json: bool,

    /// Directory of the daemon's control socket
    #[arg(long, value_name = "DIR", default_value = "/run/nlmmap")]
    runtime_dir: PathBuf,
}

const HELP: &str = "\
Examples:
  sudo nlmmap stat
  sudo nlmmap stat --json | jq '.endpoints[] | select(.overruns > 0)'

Columns: FRAMES came through the RX ring, COPIES had to be read, SENT are frames of the TX ring; OCCUPIED frames wait \
for the client.";

pub fn main(arguments: &Arguments) -> ExitCode {
    let socket = crate::serve::control_socket(&arguments.runtime_dir, &arguments.name);
    let snapshot = match stat::ask(&socket) {
        Ok(snapshot) => snapshot,
        Err(silence) => {
            let cure = match &silence {
                Silence::Stopped(pid) => format!("let it go on: kill -CONT {pid}"),
                Silence::Busy(_) => "try again; if that does not help, see its log and restart it".to_owned(),
                Silence::Error(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "start the daemon: nlmmap serve",
                    io::ErrorKind::PermissionDenied => "run it as root",
                    _ => "see whether daemon and command are of one version",
                }
                .to_owned(),
            };
            complain(&format!("{}: {silence}", socket.display()), &[cure]);
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        match serde_json::to_string(&snapshot) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                complain(&error, &[]);
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    println!(
        "{} (pid {}): {} of {} open, {} of {} KiB of rings, {} of {} descriptors",
        snapshot.name,
        snapshot.pid,
        snapshot.opens,
        snapshot.limits.opens,
        snapshot.ring_bytes >> 10,
        snapshot.limits.ring_bytes >> 10,
        snapshot.descriptors,
        snapshot.limits.descriptors
    );
    println!(
        "{:>6} {:>7} {:>6} {:16} {:>6} {:>12} {:>12} {:>8} {:>10} {:>8} {:>8} {:>8}",
        "HANDLE", "PID", "UID", "COMMAND", "FAMILY", "RX", "TX", "OCCUPIED", "FRAMES", "COPIES", "SENT", "OVERRUNS"
    );
    snapshot.endpoints.iter().for_each(line);
    ExitCode::SUCCESS
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
