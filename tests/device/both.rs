//! A ring file and a character device beside each other, each with a daemon of its own. Needs a kernel that has both.

use std::path::Path;

use crate::attacks::{unharmed, witness};
use crate::daemon::{Daemon, Place, client, passes};
use crate::endurance::{complete, stream};
use crate::support::say;

/// Whether the running kernel has both nodes.
fn has_both() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let passthrough = (parts.next(), parts.next()) >= (Some(6), Some(9));
    passthrough && Path::new("/dev/cuse").exists()
}

/// Clients of either see theirs alone, and the end of one daemon is no event for those of the other.
#[test]
fn daemons_of_both_nodes_are_strangers() {
    if !has_both() {
        return say("not run here: it needs CUSE and passthrough (Linux 6.9)");
    }
    let mut places = [Place::new(), Place::new()];
    for (place, cuse) in places.iter_mut().zip([false, true]) {
        place.cuse = cuse;
    }
    for first in [0, 1] {
        let [gone, stays]: [Daemon<'_>; 2] = [places[first].start(), places[1 - first].start()];
        for daemon in [&gone, &stays] {
            for wait in ["poll", "edge"] {
                passes(client("device_dump").arg(daemon.place.node()).arg(wait), daemon);
            }
        }
        let beside = (witness(stays.place, 3), stream(stays.place, 4, 3));
        assert_eq!(
            (gone.wait_for_opens(0)["opens"].as_u64(), stays.stat()["opens"].as_u64() > Some(0)),
            (Some(0), true)
        );
        let at_work = stream(gone.place, 4, 60);
        gone.stop();
        drop(at_work);
        unharmed(beside.0, &stays);
        complete(beside.1, &stays);
        stays.wait_for_opens(0);
        stays.stop();
    }
}
