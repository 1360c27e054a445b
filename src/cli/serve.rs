//! `nlmmap serve`: the daemon behind the device node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;

use super::complain;
use crate::serve::{self, Kind, Settings};

/// Serve a device node whose open files are netlink sockets with rings.
///
/// A client opens the node, makes a netlink socket and its rings by ioctl (include/nlmmap.h), maps them, and waits with
/// poll, select or epoll; or it only reads and writes messages. Each socket is made in the client's own network
/// namespace, and nothing is sent for a client that it could not have sent itself.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Kind of node: a FUSE ring file (its rings can be mapped; Linux 6.9), a CUSE character device, or what works here
    #[arg(long, value_enum, default_value_t = NodeArgument::Auto)]
    node: NodeArgument,

    /// Name of the node
    #[arg(long, default_value = "nlmmap")]
    name: String,

    /// Directory to mount the ring file in [default: RUNTIME_DIR/NAME]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// Symbolic link to the ring file [default: /dev/NAME, or none with --path]
    #[arg(long, value_name = "PATH")]
    link: Option<PathBuf>,

    /// Permissions of the node, octal
    #[arg(long, default_value = "0660", value_parser = mode)]
    mode: u32,

    /// Group of the node, by name or number [default: root]
    #[arg(long, value_parser = group)]
    group: Option<u32>,

    /// Limits, policy, metrics and log level (TOML); read again at SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Log what no rule of the policy grants and what none lets through, and refuse and withhold nothing: for `nlmmap policy
    /// suggest`
    #[arg(long)]
    audit: bool,

    /// Threads that answer clients, and as many that move messages
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,

    /// Log from this level on, whatever the configuration says
    #[arg(long, value_name = "LEVEL")]
    log: Option<LevelFilter>,

    /// Directory of the lock file and the control socket
    #[arg(long, value_name = "DIR", default_value = "/run/nlmmap")]
    runtime_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum NodeArgument {
    Fuse,
    Cuse,
    Auto,
}

/// How long the last words may take.
const PATIENCE: Duration = Duration::from_secs(2);

const HELP: &str = "\
Examples:
  sudo nlmmap serve                                   /dev/nlmmap, for root
  sudo nlmmap serve --group nlmmap                    and for members of that group
  sudo nlmmap serve --node fuse --path /run/rings     the ring file /run/rings/nlmmap

Signals: SIGTERM and SIGINT end it in order, SIGHUP reads the configuration again.

Configuration:
  log = \"info\"
  [limits]                        defaults follow what the machine or the control group has, up to these
  opens = 8192                    open files together; the last sixteenth is root's
  opens_per_uid = 2048            of one user; default: half of all
  descriptors = 1048448           of the daemon, three an open file, two a worker; default: the hard limit
                                  less 128
  descriptors_per_uid = 524224    default: half of them
  ring_bytes_per_open = 67108864  both rings of one open file
  ring_bytes_per_uid = 536870912  all rings of one user; default: half of all
  ring_bytes = 1073741824         all rings; default: half of the memory less 48 MiB

  [metrics]                       for Prometheus, at /metrics; none by default; read at the start alone
  listen = \"unix:/run/nlmmap/metrics\"
                                  or a port, for everybody here: \"127.0.0.1:9765\"
  group = \"prometheus\"            of the socket file, which else is root's alone

  [[policy.rule]]                 what clients may do beyond their own rights: nlmmap policy --help

Exit status: 0 after a signal; 1 when it fails; 2 for wrong arguments or configuration; 3 when the name, the directory \
or the link is in use; 4 when this kernel has no such node; 5 without the rights.";

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("use an octal number up to 777, as in 0660".into()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("no such group; make it with `groupadd --system {text}`")),
        Err(error) => Err(format!("cannot look it up: {error}")),
    }
}

pub fn main(arguments: Arguments) -> ExitCode {
    let Arguments { node, name, path, link, mode, group, config, audit, threads, log, runtime_dir } = arguments;
    let default_link = path.is_none().then(|| PathBuf::from("/dev").join(&name));
    let settings = Settings {
        node: match node {
            NodeArgument::Fuse => Kind::Fuse,
            NodeArgument::Cuse => Kind::Cuse,
            NodeArgument::Auto => Kind::Auto,
        },
        path: path.unwrap_or_else(|| runtime_dir.join(&name)),
        link: link.or(default_link),
        name,
        mode,
        group,
        config,
        audit,
        threads: usize::from(threads),
        level: log,
        runtime: runtime_dir,
    };
    match serve::run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.code;
            // Standard error may be a pipe that nobody reads: not a reason to stay.
            let (said, done) = mpsc::channel();
            let failure = Arc::new(failure);
            let words = failure.clone();
            let speaker = thread::Builder::new().spawn(move || {
                complain(&words.cause, &words.cures);
                let _ = said.send(());
            });
            match speaker {
                Ok(_) => drop(done.recv_timeout(PATIENCE)),
                // It is a reason to stay, but without any word nobody would know what has happened.
                Err(_) => complain(&failure.cause, &failure.cures),
            }
            ExitCode::from(code)
        }
    }
}
