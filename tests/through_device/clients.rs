//! The clients of the socket interface, by theme.

use crate::harness::{hold, hold_in_default_mode, holds, with_daemon};
use crate::support::{Mode, client};

#[test]
fn a_small_client_lives_its_whole_life() {
    hold(&["basic", "reply_at_once", "kick", "copy"]);
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
    hold_in_default_mode(&["options"]);
}
