//! What could not be looked at though it is there: whoever shows the rest says so.

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The first of it.
static MISSED: Mutex<Option<String>> = Mutex::new(None);

/// Whether it is not there (any more), or not for this user to see.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, UnexpectedEof};
    matches!(error.kind(), NotFound | PermissionDenied | UnexpectedEof)
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOTDIR | libc::ELOOP | libc::ENXIO))
}

pub fn note(what: &dyn Display, error: &io::Error) {
    let mut missed = MISSED.lock().unwrap_or_else(PoisonError::into_inner);
    missed.get_or_insert_with(|| format!("{what}: {error}"));
}

/// What there is; where it could not be looked at, that is noted.
pub fn seen<T>(what: &dyn Display, result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| {
            if !is_gone(error) {
                note(what, error)
            }
        })
        .ok()
}

/// Says on standard error what was missed since the last time, if anything was.
pub fn tell() {
    if let Some(missed) = MISSED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        eprintln!("nlmmap: not all could be looked at: {missed}");
    }
}
