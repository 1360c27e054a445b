//! The open files, by their handles.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::file::File;
use super::workers::Residents;

/// All open files.
#[derive(Default)]
pub struct Files(RwLock<HashMap<u64, Arc<File>>>);

impl Files {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<u64, Arc<File>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<File>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is open.
    pub fn add(&self, file: &Arc<File>) {
        self.write().insert(file.handle, file.clone());
    }

    /// A file is closed.
    pub fn remove(&self, file: &File) {
        self.write().remove(&file.handle);
    }

    pub fn all(&self) -> Vec<Arc<File>> {
        self.read().values().cloned().collect()
    }

    pub fn find(&self, handle: u64) -> Option<Arc<File>> {
        self.read().get(&handle).cloned()
    }
}

impl Residents for Files {
    fn woken(&self, handle: u64, worker: u64, who: u64) {
        if let Some(file) = self.find(handle) {
            file.woken(worker, who);
        }
    }

    fn heard(&self, handle: u64, worker: u64, notes: &[u8]) {
        if let Some(file) = self.find(handle).filter(|file| file.is_in(worker)) {
            file.heard(notes);
        }
    }

    fn lost(&self, worker: u64) -> usize {
        self.all().iter().filter(|file| file.lost(worker)).count()
    }

    fn forget(&self) {
        self.write().clear();
    }
}
