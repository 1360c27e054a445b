//! What the daemon's own processes do without, once the node is there.
//!
//! | process | capabilities | system calls |
//! | --- | --- | --- |
//! | front | [`FRONT`], and [`OVERRIDE`] where its directories are not root's | [`front`]: no program, no file written, no namespace entered |
//! | spawner | all it was given: it becomes its clients | [`spawner`]: what workers need, forking, changing identity, entering control groups |
//! | worker | its client's | [`worker`]: the engine's and memory's; no file opened, no process looked at |
//!
//! [`filter`] makes the programs that the kernel runs for each call. All three have `no_new_privs`.

mod filter;
mod front;
mod spawner;
mod worker;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use super::Settings;
use super::worker::enter;

pub use front::confine as front;
pub use spawner::{ENTERING, confine as spawner};
pub use worker::confine as worker;

/// What the front goes on to need: mounting memory behind the ring file and unmounting it (`SYS_ADMIN`), the namespaces of its
/// clients (`SYS_PTRACE`), an end for workers that are silent (`KILL`), room in channels (`NET_ADMIN`).
const FRONT: u64 = 1 << 21 | 1 << 19 | 1 << 5 | 1 << 12;
/// `CAP_DAC_OVERRIDE`: for removing what it has made from directories that are not root's, and reading such a configuration.
const OVERRIDE: u64 = 1 << 1;

/// Whether this machine's calls are known, so that there are filters.
pub const fn is_known() -> bool {
    filter::MACHINE.is_some()
}

/// The capabilities that the front keeps. `metrics`: its socket file.
pub fn kept(settings: &Settings, metrics: Option<&Path>) -> u64 {
    let config = settings.config.as_deref();
    let made = [
        Some(&*settings.runtime),
        settings.path.parent(),
        settings.link.as_deref().and_then(Path::parent),
        metrics.and_then(Path::parent),
    ];
    let paths = made.into_iter().chain([config, config.and_then(Path::parent)]).flatten();
    // What is not there yet will be root's.
    let is_roots = |path: &Path| path.metadata().map_or(true, |there| there.uid() == 0);
    if paths.into_iter().all(is_roots) { FRONT } else { FRONT | OVERRIDE }
}

/// Starts a thread that has given up all but these capabilities when this returns: afterwards it could not any more.
pub fn start_thread(name: &str, kept: u64, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (told, given_up) = mpsc::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        let done = keep_capabilities(kept);
        let works = done.is_ok();
        // Somebody waits for it.
        let _ = told.send(done);
        if works {
            work();
        }
    })?;
    given_up.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

/// This thread, and those that it starts from now on, have these capabilities at most and never more.
pub fn keep_capabilities(kept: u64) -> io::Result<()> {
    enter::keep_capabilities(kept)
}
