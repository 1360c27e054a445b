//! The open files of a session.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::poll::PollState;

/// One open file.
pub(crate) struct Entry<F> {
    pub(crate) file: Arc<F>,
    pub(crate) poll: Arc<PollState>,
    /// Ring files: the node it was opened by.
    pub(crate) node: u64,
}

impl<F> Clone for Entry<F> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), poll: self.poll.clone(), node: self.node }
    }
}

/// Open files by their handle.
pub(crate) struct Files<F>(RwLock<HashMap<u64, Entry<F>>>);

impl<F> Files<F> {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(HashMap::new()))
    }

    pub(crate) fn insert(&self, fh: u64, entry: Entry<F>) {
        let old = self.0.write().unwrap_or_else(PoisonError::into_inner).insert(fh, entry);
        debug_assert!(old.is_none(), "handles are never given out twice");
    }

    pub(crate) fn find(&self, fh: u64) -> Option<Entry<F>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&fh).cloned()
    }

    pub(crate) fn remove(&self, fh: u64) -> Option<Entry<F>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&fh)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes all entries out, as at the session's end.
    pub(crate) fn take_all(&self) -> HashMap<u64, Entry<F>> {
        std::mem::take(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
