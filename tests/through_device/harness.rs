//! A daemon, and the clients of the socket interface that get their sockets from it.

use crate::daemon::{Daemon, Place};
use crate::support::{Client, Mode, client};

/// Runs `f` with a daemon of its own, which must have nothing left open afterwards.
pub fn with_daemon(f: impl FnOnce(&Daemon<'_>)) {
    let place = Place::new();
    let daemon = place.start();
    f(&daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

/// One client in both modes, all its expectations.
pub fn holds(client: Client, daemon: &Daemon<'_>) {
    let opens = opens_so_far(daemon);
    client.through(daemon.place.node()).served();
    // Not by an ordinary socket of its own.
    assert!(opens_so_far(daemon) > opens, "the client has not opened the node\n{}", daemon.tail());
}

fn opens_so_far(daemon: &Daemon<'_>) -> usize {
    daemon.log().lines().filter(|line| line.contains("DEBUG open ")).count()
}

/// `NAME ARGUMENT...` of each line.
pub fn hold(lines: &[&str]) {
    with_daemon(|daemon| {
        for line in lines {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a client's name");
            holds(words.fold(client(name), Client::arg), daemon);
        }
    });
}

/// As [`hold`], in default mode only.
pub fn hold_in_default_mode(lines: &[&str]) {
    with_daemon(|daemon| {
        for line in lines {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a client's name");
            holds(words.fold(client(name), Client::arg).only(Mode::Default), daemon);
        }
    });
}
