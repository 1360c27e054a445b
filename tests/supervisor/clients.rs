//! The clients of the socket interface, by theme. Which of `tests/clients` are not here, and why (docs/supervisor.md):
//!
//! | client | |
//! | --- | --- |
//! | `inherited`, `rights`, `dups` to low numbers | about sockets at numbers that are not supervised: they have no rings |
//! | `recv_same` | `recvmmsg` gives one message |
//! | `recv_ends close`, `reuse`, `dups reuse` | the number is not the lowest |
//! | `recv_ends limited-signal` | has one signal, 60 ms after each call was made: on a busy machine it comes before the supervisor has taken the call, which is made again then |
//! | `exec` | a ring that is set stays set after `exec`, as on 4.5 |
//! | `signals` | counts the signals of a time in which calls are several times slower here |
//! | `early`, `plugin`, `loader`, `leak` | about how the library gets into programs, and its own memory |

use crate::support::{Build, Client, Mode, client, compile};

/// `NAME ARGUMENT...` of each line, statically linked with glibc.
fn hold_in(lines: &[&str], mode: Option<Mode>) {
    for line in lines {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a client's name");
        let mut client = words.fold(client(name).supervised(Build::Static), |client, word| client.arg(word));
        if let Some(mode) = mode {
            client = client.only(mode);
        }
        client.served();
    }
}

fn hold(lines: &[&str]) {
    hold_in(lines, None);
}

fn hold_in_default_mode(lines: &[&str]) {
    hold_in(lines, Some(Mode::Default));
}

#[test]
fn a_small_client_lives_its_whole_life() {
    hold(&["basic", "reply_at_once kick", "reply_at_once send", "kick", "copy recv", "copy recvmsg", "tiny", "beside"]);
    client("basic").supervised(Build::StaticMusl).served();
    client("wait").arg("poll").supervised(Build::StaticMusl).served();
    client("reply_at_once").arg("kick").supervised(Build::StaticMusl).served();
    let dump = ["3000", "4", "4096", "512"];
    dump.into_iter().fold(client("routes").supervised(Build::StaticMusl), Client::arg).served();
    // Whatever a preload could enter, too.
    client("basic").supervised(Build::Plain).served();
}

#[test]
fn waits_are_answered_from_memory() {
    hold(&["wait poll", "wait ppoll", "wait select", "wait pselect", "several poll", "several select", "select_loop"]);
    hold_in_default_mode(&["idle epoll_wait", "idle raw-epoll"]);
}

#[test]
fn epoll_and_signals() {
    hold(&["wait epoll_wait", "wait epoll_pwait", "wait epoll_pwait2", "several epoll", "wait_signals again"]);
    hold(&["epoll_modes edge", "epoll_modes level", "epoll_modes oneshot", "epoll_modes before-rings"]);
    hold(&["epoll_modes nested", "epoll_modes modified", "epoll_modes dup"]);
    hold(&["recv_beside", "recv_lost", "cancel", "skip", "skip_head"]);
    hold_in_default_mode(&["idle poll", "idle sleep", "idle holding"]);
}

#[test]
fn programs_that_never_call_are_served() {
    hold(&["spin messages", "spin dump", "spin long-dump", "several raw-epoll"]);
}

#[test]
fn descriptors_and_processes() {
    hold(&["fork share", "fork plugin", "fork child-alone", "fork parent-alone", "fork killed", "fork grandchild"]);
    hold(&[
        "spawn vfork",
        "spawn posix_spawn",
        "spawn system",
        "spawn popen",
        "fork_new_ring fork",
        "fork_new_ring raw",
    ]);
    hold(&["teardown close-mapped", "teardown halves", "threads receive", "threads wait", "threads kick"]);
    hold(&["stranger"]);
}

#[test]
fn messages_and_options() {
    hold(&["ancillary", "options", "plain_send", "fanout", "families route", "families generic", "families diag"]);
    hold(&["errno", "groups", "nft_batch", "nsid", "overrun", "overrun no-enobufs", "conntrack events"]);
    hold(&["routes 5000 8 16384 16384", "routes 3000 4 4096 512", "routes 5000 1 4096 4096"]);
}

#[test]
fn hostile_memory_harms_nobody() {
    hold(&["hostile headers", "hostile lengths", "toctou"]);
}

#[test]
fn hostile_arguments_are_answered_as_the_kernel_does() {
    hold_in_default_mode(&["supervised unreadable", "supervised changing"]);
}

#[test]
fn signals_interrupt_calls_at_any_moment() {
    hold(&["interrupted restart", "interrupted"]);
}

#[test]
fn what_interrupts_a_thread_reaches_it_in_a_stopped_call() {
    hold_in_default_mode(&["held"]);
}

#[test]
fn receives_end_as_they_should() {
    hold(&["recv_ends at-once", "recv_ends time", "recv_ends signal", "recv_ends restart", "recv_ends under-fire"]);
    hold(&["recv_ends message", "recv_ends shutdown"]);
    hold(&["recv_ends cancelled", "recv_ends jump"]);
}

#[test]
fn duplicates_are_the_socket() {
    hold(&["dups dup", "dups F_DUPFD", "dups F_DUPFD_CLOEXEC", "dups dup2-self", "dups dup2-over"]);
}

#[test]
fn kicks_are_refused_as_the_kernel_refuses_them() {
    hold(&["kick_refused"]);
}

#[test]
fn sockets_go_to_other_processes_and_programs() {
    let second = compile("supervised", Build::Static).display().to_string();
    hold_in_default_mode(&["supervised passed", &format!("supervised executed {second}")]);
    let musl = compile("supervised", Build::StaticMusl).display().to_string();
    hold_in_default_mode(&[&format!("supervised executed {musl}")]);
}

#[test]
fn kicks_wait_for_room_as_sends_do() {
    hold_in_default_mode(&["kick_full slow", "kick_full restart", "kick_full nonblock", "kick_full limit"]);
    hold_in_default_mode(&["kick_full signal"]);
}

#[test]
fn programs_have_filters_of_their_own() {
    hold_in_default_mode(&["supervised filtered"]);
}

#[test]
fn sockets_are_made_in_the_namespace_of_their_thread() {
    let client = client("supervised").arg("network").supervised(Build::Static).only(Mode::Default);
    client.setup("ip link add nlmmap0 type ifb || ip link add nlmmap0 type dummy || exit 77").may_lack().served();
}

#[test]
fn packets_are_judged() {
    const QUEUE: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";
    for (mode, build) in [("accept", Build::Static), ("batch", Build::Static), ("accept", Build::StaticMusl)] {
        client("nfqueue").arg(mode).setup(QUEUE).supervised(build).served();
    }
}

#[test]
fn other_users_get_what_they_may() {
    const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    // They give up their rights under root's supervisor, which does what they ask for with theirs.
    for name in ["unprivileged", "basic"] {
        client(name).supervised(Build::Static).under(&NOBODY).only(Mode::Default).served();
    }
    hold_in_default_mode(&["setuid"]);
    hold(&["creds"]);
}

/// A child of root's in a user namespace of its own is nobody there, whichever call has made it.
#[test]
fn children_in_user_namespaces_are_not_root() {
    hold_in_default_mode(&["supervised demoted"]);
}
