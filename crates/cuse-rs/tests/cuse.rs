//! The character device, on a kernel that has CUSE.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::device::Echo;
use common::{client, eventually, scenarios};
use cuse_rs::{Cuse, Ended, Error};
use nix::libc;

fn ready() -> bool {
    common::can_run("/dev/cuse")
}

fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

#[test]
fn child_process() {
    let Some((role, node)) = common::role() else {
        return;
    };
    if role == "unprivileged" {
        let error = Cuse::new("cuse-rs-denied").create(Echo::new()).unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.to_string().contains("root"), "{error}");
    } else {
        scenarios::child(&role, &node);
    }
}

#[test]
fn serves_what_every_node_must() {
    if !ready() {
        return;
    }
    for threads in [1, 3] {
        let device = Echo::new();
        let session = Cuse::new("cuse-rs-all").create(device.clone()).unwrap();
        let serving = session.spawn(threads).unwrap();
        scenarios::all(&node("cuse-rs-all"), &device);
        assert_eq!(serving.stats().unanswered, 0);
        assert_eq!(serving.stop().unwrap(), Ended::Stopped);
        assert!(!node("cuse-rs-all").exists(), "the node vanishes with the session");
    }
}

#[test]
fn node_has_number_mode_and_owner() {
    use std::os::unix::fs::MetadataExt;
    if !ready() {
        return;
    }
    let cuse = Cuse::new("cuse-rs-node").number(240, 17).mode(0o640).owner(Some(1), Some(65534));
    let session = cuse.create(Echo::new()).unwrap();
    assert_eq!(session.device_number(), Some((240, 17)));
    let meta = std::fs::symlink_metadata(node("cuse-rs-node")).unwrap();
    assert_eq!((libc::major(meta.rdev()), libc::minor(meta.rdev())), (240, 17));
    assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o020_640, 1, 65534));
    let taken = Cuse::new("cuse-rs-other").number(240, 17).create(Echo::new()).unwrap_err();
    assert!(matches!(taken, Error::NumberInUse { major: 240, minor: 17 }), "{taken}");
    assert!(taken.to_string().contains("240:17"));
    drop(session);
    assert!(!node("cuse-rs-node").exists(), "also when it was never served");
}

#[test]
fn a_second_device_of_the_name_is_refused() {
    if !ready() {
        return;
    }
    let device = Echo::new();
    let serving = Cuse::new("cuse-rs-name").create(device).unwrap().spawn(1).unwrap();
    let error = Cuse::new("cuse-rs-name").create(Echo::new()).unwrap_err();
    assert!(matches!(error, Error::NameInUse { .. }), "{error}");
    assert!(error.to_string().contains("cuse-rs-name") && error.to_string().contains("stop"));
    // The first one has not noticed.
    assert_eq!(client::ioctl(&client::open(&node("cuse-rs-name")), client::RESULT, 8).unwrap(), 8);
    serving.stop().unwrap();
    drop(Cuse::new("cuse-rs-name").create(Echo::new()).unwrap());
    let null = Cuse::new("null").create(Echo::new()).unwrap_err();
    assert!(matches!(null, Error::NameInUse { .. }), "{null}");
}

#[test]
fn open_files_fail_clearly_when_the_session_ends() {
    if !ready() {
        return;
    }
    let device = Echo::new();
    let serving = Cuse::new("cuse-rs-end").create(device.clone()).unwrap().spawn(2).unwrap();
    let file = client::open(&node("cuse-rs-end"));
    let mapped = client::Mapping::new(&file, 4096).err();
    assert_eq!(mapped, Some(nix::Error::ENODEV), "a character device in userspace has no mmap");
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| client::ioctl(&file, client::SLEEP, 0));
        eventually("the sleeper waits", || serving.stats().unanswered == 1);
        assert_eq!(serving.stop().unwrap(), Ended::Stopped);
        let error = client::errno(sleeper.join().unwrap());
        assert!([libc::ECONNABORTED, libc::ENOTCONN, libc::EIO].contains(&error), "{error}");
    });
    assert_eq!(device.live(), 0, "the device got its files back");
    assert_eq!(client::errno(client::ioctl(&file, client::RESULT, 1)), libc::ENOTCONN);
    assert_eq!(client::errno(client::try_open(&node("cuse-rs-end"), 0)), libc::ENOENT);
}

#[test]
fn two_thousand_opens_leave_nothing() {
    if !ready() {
        return;
    }
    let device = Echo::tagged("leak");
    let serving = Cuse::new("cuse-rs-leak").create(device.clone()).unwrap().spawn(2).unwrap();
    drop(client::open(&node("cuse-rs-leak")));
    eventually("idle", || device.live() == 0);
    for _ in 0..2000 {
        drop(client::open(&node("cuse-rs-leak")));
    }
    eventually("all are released", || device.live() == 0);
    let stats = serving.stats();
    assert_eq!((stats.files, stats.unanswered), (0, 0));
    eventually("no memory is left", || device.memories() == 0);
    serving.stop().unwrap();
}

#[test]
fn without_the_driver() {
    if Path::new("/dev/cuse").exists() {
        return;
    }
    let error = Cuse::new("cuse-rs-none").create(Echo::new()).unwrap_err();
    assert!(matches!(error, Error::NoDriver { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("/dev/cuse") && text.contains("modprobe cuse"), "{text}");
}

#[test]
fn without_permission() {
    use std::os::unix::process::CommandExt;
    if !ready() {
        return;
    }
    let mut child = common::command("unprivileged", Path::new("/"));
    assert!(child.uid(65534).status().unwrap().success());
}

#[test]
fn names_that_cannot_be() {
    for name in ["", "..", "a/b", "a!b", "a b", "a\n", &"x".repeat(201)] {
        let error = Cuse::new(name).create(Arc::new(Echo::default())).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
}
