//! What a daemon has last answered. It is asked by a thread of its own: one that is stopped answers late or never.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::missed;
use crate::serve::stat::{self, Silence, Snapshot};

type Answer = Result<Snapshot, Silence>;

/// See the module.
pub struct Asked(Arc<Mutex<Option<Answer>>>);

impl Asked {
    /// Asks the daemon behind this control socket again and again.
    pub fn start(socket: PathBuf, interval: Duration) -> Asked {
        let answer = Arc::new(Mutex::new(None));
        let to = Arc::downgrade(&answer);
        let begun = thread::Builder::new().name("daemon".into()).spawn(move || {
            while let Some(to) = to.upgrade() {
                let answer = stat::ask(&socket);
                *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                drop(to);
                thread::sleep(interval);
            }
        });
        missed::seen(&"a daemon", begun);
        Asked(answer)
    }

    /// Looks at the last answer, if there is one.
    pub fn last<T>(&self, look: impl FnOnce(Option<&Snapshot>) -> T) -> T {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(answer.as_ref().and_then(|answer| answer.as_ref().ok()))
    }
}
