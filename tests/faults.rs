//! Every system call of a client that uses rings is made to fail in its turn, once and for good: the library's and the client's own,
//! in all threads and the forked child. The client (`tests/clients/faults.c`) tries again what has failed, so that nothing may be
//! lost, doubled or left behind; where the failure lasts it may give up, by a clear error. Nobody hangs or dies.
//!
//! What that client leaves out others do (`tests/clients/faults_further.c`; both over a node), and fail where the library calls the
//! kernel from a place of its own: `each_place_of_a_call_has_failed` counts those places in the library's code.
//!
//! Failures are strace's (`--inject`), which counts the calls of each name in each thread. Calls before the client's `main` are the
//! loader's, and left alone. `NLMMAP_FAULTS=all` tries every error that a call can have, not one for each place.

mod support;

#[allow(dead_code, reason = "shared with device.rs, which uses the rest")]
#[path = "device/daemon.rs"]
mod daemon;
#[path = "faults/dialogue.rs"]
mod dialogue;
#[path = "faults/sites.rs"]
mod sites;

use std::collections::BTreeSet;

use dialogue::{Dialogue, all_errors};
use sites::Sites;
use support::Mode;

#[test]
fn each_call_fails_once() {
    Dialogue::new("faults", Mode::Default, false).holds();
}

#[test]
fn each_call_fails_once_in_strict_mode() {
    Dialogue::new("faults", Mode::Strict, false).holds();
}

#[test]
fn each_call_fails_for_good() {
    Dialogue::new("faults", Mode::Default, true).holds();
}

/// Calls whose failure nobody looks at: a clock, a nap, signals that are blocked and given back, who one is.
const NEVER_MATTER: &[&str] = &["clock_gettime", "getgid", "nanosleep", "rt_sigprocmask"];

/// So often a dialogue is recorded anew for those of its calls that were not made again: how many come before one of them is a matter
/// of time, of which there is less under load.
const TRIES: usize = 3;

/// Places that none of the dialogues comes to: file, function, call (all if empty), and why not.
const NOT_REACHED: &[(&str, &str, &str, &str)] = &[
    (
        "preload/src/raw.rs",
        "",
        "",
        "stands in for functions that are not found (yet), with the calls' own answers: process.rs, `every_hook_*`",
    ),
    ("", "signals::restore", "", "the end of a handler, which the kernel makes come back"),
    ("preload/src/lib.rs", "panic", "", "ends the process"),
    ("preload/src/route/exit.rs", "end", "", "ends the process where `_exit` of the chain came back"),
    ("preload/src/route/epoll/earlier.rs", "is_linked", "", "behind another failure: `each_call_fails_for_good`"),
    (
        "preload/src/route/adopt.rs",
        "begin_receiving",
        "setsockopt",
        "SO_RCVBUF behind a refused SO_RCVBUFFORCE: `each_call_fails_for_good`",
    ),
    ("ring/src/socket.rs", "set_receive_room", "setsockopt", "the same"),
    ("ring/src/rx/bell.rs", "ring_with", "getsockname", "a plug: a bell has asked before"),
    ("ring/src/tx/round.rs", "one", "sendmsg", "behind a refused sendto"),
    (
        "preload/src/shown.rs",
        "find_totals",
        "",
        "`nlmmap run --summary` only: see.rs; what fails there adds nothing up",
    ),
    ("preload/src/shown.rs", "open_tap", "", "`nlmmap capture` only: see.rs; what fails there captures nothing"),
    ("ring/src/tap.rs", "copy_as", "", "the same"),
    (
        "preload/src/shown/place.rs",
        "{closure",
        "pidfd_open ppoll",
        "files that others have left, whose rings somebody has: see.rs",
    ),
    ("preload/src/shown/place.rs", "sweep", "ppoll", "the same"),
    (
        "preload/src/shown/place.rs",
        "{closure",
        "mkdirat",
        "while the program starts, before it begins; without the directory nothing is shown",
    ),
    ("ring/src/rx.rs", "blocked", "getsockopt", "by chance: a second look at a full ring; no error is told then"),
    (
        "preload/src/device/map.rs",
        "give",
        "",
        "a character device only, where the client makes the rings' memory: `cargo xtask vm device`",
    ),
    ("ring/src/lock.rs", "contend", "", "by chance: a lock whose holder does not go on, sees whether it lives"),
    ("ring/src/store.rs", "reclaim", "", "above a mebibyte that waits; gives pages back, which stay if it fails"),
    (
        "ring/src/tx/joining.rs",
        "send_some",
        "",
        "by chance: a batch of one, since the client took the second frame back",
    ),
];

fn is_listed((file, function, calls, _): &(&str, &str, &str, &str), site: &sites::Site) -> bool {
    (file.is_empty() || site.file == *file)
        && support::names(&site.function, function)
        && (calls.is_empty() || calls.split(' ').any(|call| call == site.call))
}

/// Every place of the library's code that calls the kernel is one of a call that fails in the tests above or fails here, or is
/// listed with its reason.
#[test]
fn each_place_of_a_call_has_failed() {
    let sites = Sites::of_the_library();
    let mut failed = BTreeSet::new();
    let place = daemon::Place::new();
    let daemon = place.start();
    let mut dialogues = Vec::new();
    for mode in [Mode::Default, Mode::Strict] {
        dialogues.push(Dialogue::new("faults", mode, false).under(&sites.library));
        // As in a sandbox that knows one form of a call only.
        for failure in ["recvmsg:error=ENOSYS", "recvmmsg:error=ENOSYS"] {
            dialogues.push(Dialogue::new("faults", mode, false).under(&sites.library).beside(failure));
        }
        let further = Dialogue::new("faults_further", mode, false).under(&sites.library);
        // As under valgrind.
        dialogues.push(further.clone().beside("mremap:error=EINVAL"));
        dialogues.push(further.clone().beside("close_range:error=ENOSYS"));
        dialogues.push(further);
    }
    for client in ["faults", "faults_further"] {
        for mode in [Mode::Default, Mode::Strict] {
            let dialogue = Dialogue::new(client, mode, false).under(&sites.library);
            dialogues.push(dialogue.through(place.node()));
        }
    }
    for dialogue in dialogues {
        for _ in 0..TRIES {
            let (calls, left) = dialogue.calls();
            let of = |at: &BTreeSet<u64>| at.iter().filter_map(|at| sites.place(*at)).collect::<Vec<_>>();
            let mut here = BTreeSet::new();
            let chosen: Vec<_> = calls
                .iter()
                .filter(|((call, _), _)| !dialogue.fails_anyway(call))
                .filter(|(_, at)| {
                    // Before anything else is asked, so that each is noted.
                    let new =
                        of(at).into_iter().filter(|site| !failed.contains(site) && here.insert(site.clone())).count();
                    new > 0 || all_errors()
                })
                .map(|(place, _)| place.clone())
                .collect();
            let happened = dialogue.each_fails(&chosen, &left);
            failed.extend(calls.iter().filter(|(place, _)| happened.contains(place)).flat_map(|(_, at)| of(at)));
            if here.is_subset(&failed) {
                break;
            }
        }
    }
    daemon.stop();
    let listed = |site: &sites::Site| NOT_REACHED.iter().any(|entry| is_listed(entry, site));
    let matters = |site: &&sites::Site| {
        !dialogue::LEFT_ALONE.contains(&site.call.as_str()) && !NEVER_MATTER.contains(&site.call.as_str())
    };
    let all = sites.all();
    assert!(all.len() > 150, "only {} places: {all:?}", all.len());
    let open: Vec<_> = all.iter().filter(matters).filter(|site| !failed.contains(*site) && !listed(site)).collect();
    println!("{} places, {} of them failed", all.len(), all.intersection(&failed).count());
    assert!(open.is_empty(), "no test has these fail, and no reason is given: {open:#?}");
    let gone: Vec<_> = NOT_REACHED.iter().filter(|entry| !all.iter().any(|site| is_listed(entry, site))).collect();
    assert!(gone.is_empty(), "there is no such place any more: {gone:?}");
}
