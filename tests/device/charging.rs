//! Who is charged for the memory of rings: the client's control group, where the daemon can enter it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::attacks::{Beside, unharmed, witness};
use crate::cage::MemoryCage;
use crate::daemon::{Daemon, Place, client, uses_cuse};
use crate::support::patient;

const NOBODY: u32 = 65534;
/// Far more than the groups have.
const LIMITS: &str =
    "[limits]\nring_bytes = 4294967296\nring_bytes_per_uid = 4294967296\nring_bytes_per_open = 134217728\n";
const MIB: u64 = 1 << 20;

/// Who is charged for one client's rings.
fn charged(daemon: &Daemon<'_>, pid: u32) -> Vec<String> {
    let stat = daemon.stat();
    let of_it = stat["endpoints"].as_array().expect("a list").iter().filter(|entry| entry["pid"] == pid);
    of_it.filter_map(|entry| Some(entry["charged"].as_str()?.to_owned())).collect()
}

fn start(cage: &MemoryCage, program: &str, place: &Place, args: &[&str]) -> Beside {
    let mut command = client(program);
    command.arg(place.node()).args(args);
    cage.put_as(&mut command, NOBODY);
    Beside::start(&mut command)
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + patient(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rings_are_charged_to_their_clients_control_group() {
    let (Some(cage), Some(other)) = (MemoryCage::new(300 * MIB), MemoryCage::new(300 * MIB)) else { return };
    let place = Place::with_config(LIMITS);
    let daemon = place.start();
    let witness = witness(&place, 4);
    let mut five = start(&cage, "device_greedy", &place, &["rings", "64"]);
    let pid = five.0.id();
    assert_eq!(five.line(), "got 4 then ENOMEM\n", "five of 64 MiB in 300: {}", daemon.tail());
    daemon.says("that its control group has left");
    assert!(cage.used() >= 256 * MIB, "{}", cage.used());
    assert_eq!(charged(&daemon, pid), ["client"; 4]);
    let stat = daemon.stat();
    assert_eq!((&stat["paid_bytes"], &stat["unpaid"]), (&(256 * MIB).into(), &serde_json::Value::Null), "{stat}");
    // The same user in another group has what that one has.
    let mut more = start(&other, "device_greedy", &place, &["rings", "128"]);
    assert_eq!(more.line(), "got 2 then ENOMEM\n", "{}", daemon.tail());
    assert!(other.used() >= 256 * MIB && cage.used() < 300 * MIB, "{} {}", other.used(), cage.used());
    assert!(five.0.try_wait().expect("a child").is_none(), "nobody was killed");
    unharmed(witness, &daemon);
    drop((five, more));
    daemon.wait_for_opens(0);
    assert_eq!(daemon.stat()["paid_bytes"], 0);
    until("the groups have their memory again", || cage.used() < 32 * MIB && other.used() < 32 * MIB);
    daemon.stop();
}

/// A group whose memory goes while a ring takes it: the ring is refused, and nobody is killed for it.
#[test]
fn a_group_without_memory_costs_the_ring_and_nobody() {
    let Some(cage) = MemoryCage::new(300 * MIB) else { return };
    let place = Place::with_config(LIMITS);
    let daemon = place.start();
    let witness = witness(&place, 3);
    let mut tries = start(&cage, "device_squeezed", &place, &[]);
    let line = tries.line();
    assert!(tries.succeeds(), "{line}{}", daemon.tail());
    let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers.iter().all(|times| *times > 0), "{line}");
    unharmed(witness, &daemon);
    daemon.wait_for_opens(0);
    until("the group has its memory again", || cage.used() < 32 * MIB);
    daemon.stop();
}

#[test]
fn where_a_group_cannot_be_entered_the_daemons_is_charged_and_says_so() {
    let (Some(ours), Some(cage)) = (MemoryCage::new(500 * MIB), MemoryCage::new(300 * MIB)) else { return };
    let mut place = Place::with_config("");
    // Nobody without this capability can write there.
    fs::set_permissions(cage.path().join("cgroup.procs"), fs::Permissions::from_mode(0o444)).expect("its mode");
    place.wrap = ["setpriv", "--bounding-set", "-dac_override"].map(String::from).into();
    let daemon = place.start_as(|command| ours.put(command));
    let mut one = start(&cage, "device_greedy", &place, &["rings", "16"]);
    let line = one.line();
    assert!(line.ends_with("then ENOMEM\n"), "{line}{}", daemon.tail());
    assert_eq!(charged(&daemon, one.0.id()).first().map(String::as_str), Some("daemon"));
    assert_eq!(daemon.stat()["paid_bytes"], 0);
    assert!(ours.used() > 32 * MIB && cage.used() < 32 * MIB, "{} {}", ours.used(), cage.used());
    daemon.says("rings are charged to the daemon's control group, where the client's cannot be: ");
    assert!(daemon.stat()["unpaid"].as_str().is_some_and(|why| why.contains("Permission denied")));
    drop(one);
    daemon.wait_for_opens(0);
    assert_eq!(daemon.log().matches("where the client's cannot be").count(), 1, "said once");
    daemon.stop();
}

/// What clients' groups are charged for has room in the daemon's too: a client can make holes into it, which the daemon fills.
#[test]
fn rings_that_others_are_charged_for_still_fit_into_the_daemons_group() {
    let (Some(ours), Some(cage)) = (MemoryCage::new(200 * MIB), MemoryCage::new(900 * MIB)) else { return };
    let place = Place::with_config(LIMITS);
    let daemon = place.start_as(|command| ours.put(command));
    let mut many = start(&cage, "device_greedy", &place, &["rings", "16"]);
    assert!(many.line().ends_with("then ENOMEM\n"), "{}", daemon.tail());
    daemon.says("bytes of memory that are left");
    let paid = daemon.stat()["paid_bytes"].as_u64().expect("a number");
    assert!(paid > 64 * MIB && paid < 152 * MIB, "{paid}");
    // A character device's lie in memory of the client's own.
    assert!(uses_cuse() || cage.used() >= paid, "{}", cage.used());
    drop(many);
    daemon.wait_for_opens(0);
    daemon.stop();
}
