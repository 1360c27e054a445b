//! `nlmmap run --via supervisor`, and what `auto` falls back to.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Arguments, Failure, Level, Via};
use crate::preload;
use crate::program::{self, Refusal, search, secure};
use crate::supervisor;

/// Why the program is to be supervised, if it is.
pub fn reason(arguments: &Arguments) -> Option<String> {
    match arguments.via {
        Via::Supervisor => Some("as asked".to_owned()),
        Via::Auto if arguments.device.is_none() => static_program(arguments),
        Via::Auto | Via::Preload => None,
    }
}

/// What keeps the library out of a program that has no dynamic linker.
fn static_program(arguments: &Arguments) -> Option<String> {
    let path = search::find(arguments.command.first()?).ok()?;
    // The supervisor needs no library, and is of this program's own machine.
    let machine = preload::find().map_or_else(|_| program::own_machine(), |library| Some(library.machine))?;
    let refusal = program::judge(&path, machine, &secure::Caller::current().ok()?).err()?;
    refusal.is_static().then(|| refusal.to_string())
}

/// Starts a supervisor and becomes the program.
pub fn supervise(arguments: &Arguments, why: &str) -> ExitCode {
    let failure = match prepare(arguments) {
        Ok(program) if arguments.check => match supervisor::trial::whole() {
            Ok(()) => {
                println!("{} can be supervised", program.display());
                println!("  why      {why}");
                return ExitCode::SUCCESS;
            }
            Err((cause, cures)) => Failure(format!("no supervisor: {cause}"), cures, 126),
        },
        Ok(program) => {
            return super::summed(arguments, |summary| become_program(arguments, &program, why, summary));
        }
        Err(failure) => failure,
    };
    failure.tell()
}

fn refused(refusal: &supervisor::Refusal) -> Failure {
    Failure(format!("no supervisor: {refusal}"), refusal.cures(), 126)
}

fn prepare(arguments: &Arguments) -> Result<PathBuf, Failure> {
    if arguments.device.is_some() {
        let cures = vec!["use one of --via supervisor and --device".to_owned()];
        return Err(Failure(
            "--device is the preload library's, which a supervised program has not".to_owned(),
            cures,
            2,
        ));
    }
    let name = arguments.command.first().map_or(OsStr::new(""), |name| name);
    let program = search::find(name).map_err(|why| Refusal::NotRunnable { path: name.into(), why })?;
    // What cannot be judged the kernel will refuse, or run as it is.
    if let Ok(caller) = secure::Caller::current()
        && let Err(refusal @ Refusal::Gains { .. }) = program::gains_nothing(&program, &caller)
    {
        return Err(refusal.into());
    }
    Ok(program)
}

fn become_program(arguments: &Arguments, program: &Path, why: &str, summary: Option<&Path>) -> Failure {
    let level = match arguments.log {
        None => supervisor::Level::Nothing,
        Some(Level::Error) => supervisor::Level::Error,
        Some(Level::Warn) => supervisor::Level::Warn,
        Some(Level::Info) => supervisor::Level::Info,
        Some(Level::Debug) => supervisor::Level::Debug,
    };
    if level >= supervisor::Level::Info {
        eprintln!("nlmmap: by a supervisor: {why}");
    }
    match supervisor::start(arguments.strict, level, summary) {
        Ok(()) => super::start(program, false, &arguments.command, &env::vars_os().collect::<Vec<_>>()),
        Err(refusal) => refused(&refusal),
    }
}
