//! What could not be looked at though it is there: whoever shows the rest says so.

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The first of it.
static MISSED: Mutex<Option<String>> = Mutex::new(None);

/// Whether it is not there (any more).
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof)
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOTDIR | libc::ELOOP | libc::ENXIO))
}

/// Whether it is gone, or not for this user to see.
pub fn is_hidden(error: &io::Error) -> bool {
    is_gone(error) || error.kind() == io::ErrorKind::PermissionDenied
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
