//! What clients get.

use std::process::Command;

use crate::daemon::{Place, client, passes};
use crate::support::repository;

#[test]
fn dumps_come_whole_however_the_client_waits() {
    let place = Place::new();
    let daemon = place.start();
    for wait in ["poll", "level", "edge"] {
        // A network namespace of its own, with more routes than the ring holds: the daemon has to make the socket there.
        let program = client("device_dump").get_program().to_owned();
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "ip link set lo up && for i in $(seq 4000); do echo route add 127.1.$((i / 250)).$((i % 250)) dev lo; done | ip -batch - && exec \"$@\"", "sh"]);
        command.arg(program).arg(place.node()).arg(wait);
        let out = passes(&mut command, &daemon);
        let routes = out.lines().next().and_then(|line| line.split(' ').nth(1)).and_then(|n| n.parse().ok());
        assert!(routes.is_some_and(|n: u32| n > 4000), "{out}");
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_client_without_rings_reads_and_writes_messages() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/clients/device_plain.py")).arg(place.node());
    passes(&mut command, &daemon);
    daemon.stop();
}

#[test]
fn socket_calls_tell_and_take_what_read_and_write_do_not() {
    let place = Place::new();
    let daemon = place.start();
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/clients/device_calls.py")).arg(place.node());
    passes(&mut command, &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn nobody_gets_more_rights_than_his_own() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_rights").arg(place.node()), &daemon);
    daemon.stop();
}

#[test]
fn messages_are_answered_as_on_a_socket_of_the_clients_own() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_place").arg(place.node()), &daemon);
    daemon.stop();
}

#[test]
fn messages_of_every_family_are_answered_as_by_the_kernel() {
    let place = Place::new();
    let daemon = place.start();
    for who in ["user", "contained", "ruler", "sandboxed"] {
        let own = passes(client("device_table").args(["own", who]), &daemon);
        let through = passes(client("device_table").arg(place.node()).arg(who), &daemon);
        assert!(own.lines().count() > 1000, "{who}: {own}");
        let other: Vec<_> = own.lines().zip(through.lines()).filter(|(own, through)| own != through).collect();
        assert!(other.is_empty() && own.lines().count() == through.lines().count(), "{who}: {other:#?}");
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn hostile_clients_hurt_only_themselves() {
    let place = Place::new();
    let daemon = place.start();
    passes(client("device_hostile").arg(place.node()), &daemon);
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    daemon.wait_for_opens(0);
    daemon.stop();
}
