//! What is not made to fail, and why.

use super::plan::Entry;

/// Places that nobody comes to, or whose failure is told elsewhere: file, function (all if empty), calls (all if empty), and why.
pub const NOT_FAILED: &[Entry] = &[
    // What cannot fail as it is asked.
    ("src/supervisor/guardian.rs", "conclude", "write", "an event counter takes a 1 whole"),
    ("src/supervisor/standin.rs", "show", "write read", "an event counter takes a 1 whole, and is read whole"),
    ("src/supervisor/descriptors.rs", "all", "getrlimit", "asks for a limit, which is always there"),
    // Other kernels and commands, and what is the library's alone.
    ("src/supervisor/notify.rs", "tighten", "", "before 6.18: refusals.rs, `kernels_before_5_19_and_6_18`"),
    ("src/supervisor/trial.rs", "in_a_child", "", "`nlmmap doctor`, which says what fails"),
    ("src/supervisor/trial.rs", "means", "", "`nlmmap doctor`, which says what fails"),
    ("src/supervisor/trial.rs", "dialogue", "", "`nlmmap doctor`, which says what fails"),
    ("src/supervisor/calls.rs", "may_set_rings", "", "strict mode: whose rights are not known sets no rings"),
    (
        "src/supervisor/shown.rs",
        "map",
        "",
        "`run --summary` and `capture` only: see.rs; what fails there adds nothing up",
    ),
    ("src/see/place.rs", "own", "", "without NLMMAP_VIEW; nothing is shown then: see.rs"),
    ("src/see/place.rs", "owner", "", "without NLMMAP_VIEW; nothing is shown then: see.rs"),
    ("crates/ring/src/lock.rs", "", "", "the library's: a supervisor is alone with its rings"),
    ("crates/ring/src/rx/bell.rs", "", "", "the library's: nobody waits for the socket"),
    ("crates/ring/src/rx/congestion.rs", "", "", "by chance; faults.rs has it fail, in the library"),
    ("crates/ring/src/rx/single.rs", "look", "", "by chance; faults.rs has it fail, in the library"),
    ("crates/ring/src/tx/refusal.rs", "look", "", "by chance; faults.rs has it fail, in the library"),
    (
        "crates/ring/src/tx/joining.rs",
        "send_some",
        "",
        "by chance: a batch of one, since the client took the second frame back",
    ),
    ("crates/ring/src/tx.rs", "", "syscall!", "by chance; faults.rs has it fail, in the library"),
    ("crates/ring/src/tap.rs", "", "", "`capture` only: see.rs; what fails there captures nothing"),
    (
        "crates/ring/src/store.rs",
        "reclaim",
        "",
        "above a mebibyte that waits; gives pages back, which stay if it fails",
    ),
    // Behind another failure, or by chance.
    ("crates/ring/src/endpoint.rs", "open_over", "", "gives back behind a mapping that failed"),
    ("crates/ring/src/endpoint/rings.rs", "map_ring", "", "gives back behind a mapping that failed"),
    ("crates/ring/src/endpoint/rings.rs", "unmap_ring", "", "gives back"),
    (
        "src/supervisor/client.rs",
        "has_thread_ended",
        "",
        "by chance: a thread that was interrupted, and has ended since",
    ),
    ("src/supervisor/inject.rs", "take_back", "", "by chance: a signal before its call was interrupted (before 5.19)"),
    ("src/supervisor/inject.rs", "Traced::call", "", "by chance: a thread that stops once more on its way"),
    ("src/supervisor/inject.rs", "::drop", "waitpid", "sees the end of a thread that was killed"),
    ("src/supervisor/notify.rs", "put_and_answer", "", "one step with the answer is that of kernels before 5.19"),
    ("src/supervisor/ring.rs", "begin_receiving", "", "SO_RCVBUF behind a refused SO_RCVBUFFORCE"),
    ("src/supervisor/send.rs", "name_after", "", "behind a port id that is taken"),
    ("src/supervisor/shown.rs", "Shown::begin", "unlink", "takes away what could not be used"),
    ("src/supervisor/shown.rs", "make", "unlink", "takes away what could not be used"),
    ("src/supervisor/standin.rs", "replace", "", "takes back what was done before another failure"),
    // Told, or made good, elsewhere.
    ("src/supervisor/shown.rs", "Page::end", "unlink", "the next one who looks takes away what the dead have left"),
];
