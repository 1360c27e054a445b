//! What a fork child does with its copy of the tables, given to [`process`], which knows when.

use crate::{device, fdtable, guard, process};
use nlmmap_ring::errno::Result;

/// Says so, once or more.
pub fn announce() {
    process::on_fork(|pid| {
        guard::after_fork();
        fdtable::after_fork(pid);
        device::table::after_fork();
    });
}

/// Gets ready for forks, before the first socket is adopted.
pub fn prepare() -> Result<()> {
    announce();
    process::prepare()
}
