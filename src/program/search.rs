//! Finding a command as `execvp` finds it.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

/// Why a file cannot be run.
#[derive(Debug)]
pub enum NotRunnable {
    /// It is not there.
    Missing,
    /// No permission to execute it, or to search its directory.
    Denied,
    /// A directory, device or the like.
    NotAFile,
    /// Another failure of the look-up.
    Other(io::Error),
}

impl fmt::Display for NotRunnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRunnable::Missing => f.write_str("not found"),
            NotRunnable::Denied => f.write_str("no permission to execute it"),
            NotRunnable::NotAFile => f.write_str("not a regular file"),
            NotRunnable::Other(error) => error.fmt(f),
        }
    }
}

/// Whether the effective user may run the file at `path`.
pub fn runnable(path: &Path) -> Result<(), NotRunnable> {
    match path.metadata() {
        Ok(meta) if !meta.is_file() => return Err(NotRunnable::NotAFile),
        Ok(_) => {}
        Err(e) => return Err(reason(e)),
    }
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(|e| reason(e.into()))
}

/// Looks `name` up in `PATH`, unless it holds a slash.
pub fn find(name: &OsStr) -> Result<PathBuf, NotRunnable> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return runnable(&path).map(|()| path);
    }
    if name.is_empty() {
        return Err(NotRunnable::Missing);
    }
    // What glibc searches when there is no PATH (`confstr(_CS_PATH)`).
    let dirs = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut worst = NotRunnable::Missing;
    for dir in env::split_paths(&dirs) {
        // An empty entry means the working directory.
        let path = if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) };
        match runnable(&path) {
            Ok(()) => return Ok(path),
            Err(NotRunnable::Denied) => worst = NotRunnable::Denied,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn reason(error: io::Error) -> NotRunnable {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => NotRunnable::Missing,
        Some(libc::EACCES | libc::EPERM) => NotRunnable::Denied,
        _ => NotRunnable::Other(error),
    }
}
