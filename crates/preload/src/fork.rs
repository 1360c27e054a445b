//! What a fork child does with its copy of the tables, given to [`process`], which knows when.

use crate::local::Local;
use crate::{device, fdtable, guard, process, shown};
use core::sync::atomic::Ordering;
use nlmmap_ring::errno::Result;

/// Says so, once or more.
pub fn announce() {
    process::before_fork(|| each(shown::note_fork));
    process::on_fork(|pid| {
        guard::after_fork();
        fdtable::after_fork(pid);
        each(shown::note_child);
        device::table::after_fork();
    });
}

/// Calls `f` with each endpoint that is not just being made or buried by another thread.
fn each(f: fn(&Local)) {
    for local in fdtable::all() {
        if local.try_use() {
            if local.live.load(Ordering::Acquire) {
                f(local);
            }
            local.release();
        }
    }
}

/// Gets ready for forks, before the first socket is adopted.
pub fn prepare() -> Result<()> {
    announce();
    process::prepare()
}
