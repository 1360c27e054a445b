//! `nlmmap doctor`: what works here, tried and not guessed.

mod entry;
mod machine;
mod network;
mod supervisor;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

/// Say what works on this machine, and why not.
///
/// Everything is tried out: sockets are opened, a small program is run with the library in it, a namespace is made
/// in a child. Nothing is left behind and nothing is changed (the kernel may load a module that a socket asks for).
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Write the report as JSON, for scripts
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Each line is one of
  ok     works
  no     does not; the reason is behind it, and the cure below it
  maybe  could not be tried, or works with a limit

Examples:
  nlmmap doctor
  nlmmap doctor --json | jq '.checks[] | select(.state != \"ok\")'

Exit status: 0 when `nlmmap run` works here, 1 when it does not, 2 for wrong arguments. Lines that only some \
programs need (a family, a namespace, a device) do not count.";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// It does not.
    No,
    /// It was not possible to tell, or there is a limit.
    Maybe,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Check {
    group: &'static str,
    name: &'static str,
    state: State,
    why: String,
    cure: Option<String>,
    /// `nlmmap run` does not work without it.
    needed: bool,
}

impl Check {
    fn new(group: &'static str, name: &'static str, state: State, why: impl Into<String>) -> Check {
        Check { group, name, state, why: why.into(), cure: None, needed: false }
    }

    fn cure(mut self, cure: impl Into<String>) -> Check {
        self.cure = Some(cure.into());
        self
    }

    fn needed(mut self) -> Check {
        self.needed = true;
        self
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    kernel: String,
    machine: String,
    works: bool,
    checks: Vec<Check>,
}

/// Makes the report and shows it.
pub fn main(arguments: &Arguments) -> ExitCode {
    let report = report();
    let mut out = io::stdout().lock();
    let written = match arguments.json {
        true => serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => show(&mut out, &report),
    };
    match written {
        Ok(()) if report.works => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            super::complain(&format!("cannot write the report: {error}"), &[]);
            ExitCode::FAILURE
        }
    }
}

fn report() -> Report {
    let system = machine::System::read();
    let mut checks = vec![machine::kernel(&system), machine::kernel_rings()];
    checks.extend(entry::checks());
    checks.push(machine::memory());
    checks.extend(supervisor::checks());
    checks.extend(machine::permissions());
    checks.extend(network::families());
    checks.extend(network::netfilter());
    checks.push(network::namespaces());
    checks.extend(machine::devices(&system));
    checks.extend(machine::sandbox());
    Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: system.release,
        machine: system.machine,
        works: checks.iter().all(|c| !c.needed || c.state != State::No),
        checks,
    }
}

fn show(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "nlmmap {} on Linux {} ({})", report.version, report.kernel, report.machine)?;
    let mut group = "";
    for check in &report.checks {
        if check.group != group {
            group = check.group;
            writeln!(out, "\n{group}")?;
        }
        let state = match check.state {
            State::Ok => "ok",
            State::No => "no",
            State::Maybe => "maybe",
        };
        writeln!(out, "  {state:<6} {:<16} {}", check.name, check.why)?;
        if let Some(cure) = &check.cure {
            writeln!(out, "  {:<6} {:<16} cure: {cure}", "", "")?;
        }
    }
    writeln!(out)?;
    match report.works {
        true => writeln!(out, "`nlmmap run` works here"),
        false => writeln!(out, "`nlmmap run` does not work here: see the lines with `no` above"),
    }
}
