//! `nlmmap demo`: the main job, on this machine's own links, routes and packets.

mod clients;
mod dump;
mod packets;
mod summary;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::preload::{self, Library};

/// See it work: a netlink ring client of 2013 on this kernel, without nlmmap and with it.
///
/// The demo compiles two clients in C, written as such clients were in 2013 (the kernel's header, setsockopt, one
/// mmap, frames, poll, TX kick). The first shows that the bare kernel refuses it, then lists this machine's links and
/// routes through its rings. The second judges real packets of an NFQUEUE through its rings, in a network namespace
/// of its own.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Put the sources and programs into this directory, and leave them there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

const HELP: &str = "\
Needs a C compiler (apt install gcc libc6-dev); for the packets also iptables (apt install iptables) and the right to \
make a network namespace (root, or user namespaces). With strace installed, it counts the first client's system calls \
from outside too.

Examples:
  nlmmap demo
  nlmmap demo --keep /tmp/demo      look at the clients, change them, run them by hand

Exit status: 0 when all of it worked, 1 when something failed, 3 when something could not be tried here (what to \
install is said), 2 for wrong arguments.";

/// How a part of the demo ended, when it did not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Worked,
    /// Something is missing on this machine; what, was said.
    Untried,
}

/// A program or a right that the demo needs and does not have: no failure of nlmmap.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
struct Missing {
    cause: String,
    cure: String,
}

impl Missing {
    fn new(cause: impl Into<String>, cure: impl Into<String>) -> Missing {
        Missing { cause: cause.into(), cure: cure.into() }
    }
}

/// Where the demo runs, and with what.
struct Stage {
    dir: PathBuf,
    library: Library,
    nlmmap: PathBuf,
}

/// Runs the parts in turn.
pub fn main(arguments: &Arguments) -> ExitCode {
    let library = match preload::find() {
        Ok(library) => library,
        Err(error) => {
            super::complain(&error, &error.cures());
            return ExitCode::FAILURE;
        }
    };
    match play(arguments, library) {
        Ok(Outcome::Worked) => ExitCode::SUCCESS,
        Ok(Outcome::Untried) => ExitCode::from(3),
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => {
                super::complain(missing, std::slice::from_ref(&missing.cure));
                ExitCode::from(3)
            }
            None => {
                super::complain(&format!("the demo failed: {error:#}"), &["nlmmap doctor".to_owned()]);
                ExitCode::FAILURE
            }
        },
    }
}

fn play(arguments: &Arguments, library: Library) -> anyhow::Result<Outcome> {
    let temporary = match &arguments.keep {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("no directory for the programs (set TMPDIR)")?),
    };
    let dir = match (&arguments.keep, &temporary) {
        (Some(dir), _) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            dir.canonicalize()?
        }
        (None, temporary) => temporary.iter().map(|t| t.path().to_owned()).collect(),
    };
    let stage = Stage { dir, library, nlmmap: std::env::current_exe().context("no path to this program")? };
    clients::compile(&stage)?;
    dump::refused(&stage)?;
    dump::served(&stage)?;
    // The last part, because this process does not leave the namespace that it makes.
    match packets::judged(&stage) {
        Ok(()) => {
            say("");
            say("all of it worked");
            Ok(Outcome::Worked)
        }
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => {
                say(format_args!("   not tried: {missing}"));
                say(format_args!("   cure: {}", missing.cure));
                Ok(Outcome::Untried)
            }
            None => Err(error),
        },
    }
}

fn say(text: impl Display) {
    println!("{text}");
}

/// What a client printed, set apart from our own words.
fn quote(text: &str) {
    for line in text.lines() {
        println!("   | {line}");
    }
}
