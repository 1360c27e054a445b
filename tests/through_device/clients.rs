//! The clients of the socket interface, by theme. Which of `tests/clients` are not here, and why:
//!
//! | client | |
//! | --- | --- |
//! | `exec` | a ring that is set stays set after `exec`, as on 4.5; without a device it is gone |
//! | `creds`, `stranger`, `rights send` | the worker sends: `nm_pid` is its (docs/device.md) |
//! | `limits threads` | no thread is started |
//! | `kick_refused` | a `writev` of more bytes than there can be is told by the size of its vectors, not by `EINVAL` |
//! | `signals`, `toctou`, `overrun` | tens of thousands of calls that the daemon answers one by one; their subject is the engine's |
//! | `early`, `plugin`, `loader`, `basic` as built otherwise | about how the library gets into programs |
//! | `idle`, `leak`, `limits`, `fork_new_ring` | about the library's own thread, memory and descriptors, which there are none of |

use crate::harness::{hold, hold_in_default_mode, holds, with_daemon};
use crate::support::{Build, Mode, client};

#[test]
fn a_small_client_lives_its_whole_life() {
    hold(&["basic", "reply_at_once kick", "reply_at_once send", "kick", "copy recv", "copy recvmsg", "tiny"]);
    with_daemon(|daemon| {
        holds(client("basic").build(Build::Musl), daemon);
        holds(client("basic").build(Build::Fortified), daemon);
    });
}

#[test]
fn waits_are_the_nodes_own() {
    hold(&["wait poll", "wait select", "wait epoll_wait", "several epoll", "several raw-epoll"]);
    hold_in_default_mode(&[
        "epoll_modes edge",
        "epoll_modes level",
        "epoll_modes oneshot",
        "epoll_modes before-rings",
        "epoll_modes nested",
        "spin messages",
        "spin long-dump",
        "select_loop",
    ]);
}

#[test]
fn descriptors_and_processes() {
    hold(&[
        "fork share",
        "fork plugin",
        "fork child-alone",
        "dups dup2",
        "dups close_range",
        "teardown close-mapped",
        "teardown halves",
    ]);
    hold_in_default_mode(&[
        "spawn vfork",
        "spawn posix_spawn",
        "rights receive",
        "threads receive",
        "setuid",
        "cancel recv",
    ]);
}

#[test]
fn a_socket_that_comes_from_elsewhere_is_known() {
    hold(&["inherited"]);
}

#[test]
fn messages_and_options() {
    hold(&["page_faults", "ancillary", "options", "plain_send", "fanout", "families route", "families generic"]);
    hold_in_default_mode(&["skip", "skip_head", "hostile headers", "hostile lengths", "errno", "recv_same"]);
    hold_in_default_mode(&["routes 5000 8 16384 16384", "routes 3000 4 4096 512"]);
}

#[test]
fn kicks_wait_for_receivers_as_on_a_socket() {
    hold_in_default_mode(&["kick_full slow", "kick_full restart", "kick_full nonblock", "kick_full limit"]);
    hold_in_default_mode(&["kick_full signal", "threads kick"]);
}

#[test]
fn packets_are_judged() {
    const QUEUE: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";
    with_daemon(|daemon| {
        for mode in ["accept", "batch"] {
            holds(client("nfqueue").arg(mode).setup(QUEUE), daemon);
        }
    });
}

#[test]
fn other_users_get_what_they_may() {
    const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    with_daemon(|daemon| {
        holds(client("unprivileged").under(&NOBODY).only(Mode::Default), daemon);
        holds(client("basic").under(&NOBODY).only(Mode::Default), daemon);
    });
}
