//! The ring file, on a kernel that has FUSE passthrough.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::device::Echo;
use common::{client, eventually, scenarios};
use cuse_rs::{Ended, Error, Passthrough, ReplyError, RingFile, Serving};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tempfile::TempDir;

const PAGE: usize = 4096;

/// A directory to mount on, in a mount namespace of this test's thread.
fn directory() -> Option<TempDir> {
    common::can_run("/dev/fuse").then(|| {
        common::private_mounts();
        tempfile::tempdir().unwrap()
    })
}

struct Fixture {
    device: Arc<Echo>,
    serving: Serving,
    node: PathBuf,
    // Last: removed after the mount is gone.
    directory: TempDir,
}

fn serve(threads: usize) -> Option<Fixture> {
    serve_device(Echo::new(), threads)
}

fn serve_device(device: Arc<Echo>, threads: usize) -> Option<Fixture> {
    let directory = directory()?;
    let node = directory.path().join("ring");
    let session = RingFile::new(directory.path(), "ring").mount(device.clone()).unwrap();
    let serving = session.spawn(threads).unwrap();
    Some(Fixture { device, serving, node, directory })
}

fn ring(file: &std::fs::File, len: usize) -> client::Mapping {
    client::ioctl_with(file, client::RING, &mut (len as u32)).unwrap();
    client::Mapping::new(file, len).unwrap()
}

#[test]
fn child_process() {
    let Some((role, node)) = common::role() else {
        return;
    };
    match role.as_str() {
        "daemon" => {
            let session = RingFile::new(&node, "ring").mount(Echo::new()).unwrap();
            session.run(2).unwrap();
        }
        "busy" => loop {
            let mut file = client::open(&node);
            let memory = ring(&file, 4 * PAGE);
            memory.word(5).fetch_add(1, Ordering::SeqCst);
            file.write_all(b"message").unwrap();
            file.read_exact(&mut [0; 7]).unwrap();
            client::ioctl(&file, client::COUNT_AT, 20).unwrap();
        },
        "unprivileged" => {
            let error = RingFile::new(&node, "ring").mount(Echo::new()).unwrap_err();
            assert!(matches!(error, Error::Denied { .. }), "{error}");
            assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
        }
        "count" => {
            // Standard input is the parent's open file.
            let file = std::io::stdin();
            let memory = client::Mapping::new(&file, PAGE).unwrap();
            for _ in 0..1000 {
                memory.word(3).fetch_add(1, Ordering::SeqCst);
            }
        }
        other => scenarios::child(other, &node),
    }
}

#[test]
fn serves_what_every_node_must() {
    for threads in [1, 3] {
        let Some(fixture) = serve(threads) else {
            return;
        };
        scenarios::all(&fixture.node, &fixture.device);
        assert_eq!(fixture.serving.stats().unanswered, 0);
        assert_eq!(fixture.serving.stop().unwrap(), Ended::Stopped);
        assert!(!fixture.node.exists(), "the file vanishes with the session");
        fixture.directory.close().unwrap();
    }
}

#[test]
fn memory_is_shared_both_ways() {
    let Some(fixture) = serve(2) else { return };
    let file = client::open(&fixture.node);
    assert_eq!(file.metadata().unwrap().size(), 0);
    let memory = ring(&file, 2 * PAGE);
    assert_eq!(file.metadata().unwrap().size(), 2 * PAGE as u64, "size of what can be mapped");
    for round in 1..=1000u32 {
        memory.word(PAGE / 4).fetch_add(1, Ordering::SeqCst);
        client::ioctl(&file, client::COUNT_AT, PAGE as u64).unwrap();
        assert_eq!(memory.word(PAGE / 4).load(Ordering::SeqCst), 2 * round);
    }
    let other = client::open(&fixture.node);
    let apart = ring(&other, PAGE);
    assert_eq!(apart.word(0).load(Ordering::SeqCst), 0);
    apart.word(0).store(7, Ordering::SeqCst);
    assert_eq!(memory.word(0).load(Ordering::SeqCst), 0, "each open has its own memory");
    // Sealed: the client cannot make it smaller under the daemon.
    assert_eq!(nix::unistd::ftruncate(&file, 0), Err(nix::Error::EPERM));
}

#[test]
fn memory_is_shared_with_processes() {
    let Some(fixture) = serve(2) else { return };
    let file = client::open(&fixture.node);
    let memory = ring(&file, PAGE);
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = common::command("count", &fixture.node);
            command.stdin(file.try_clone().unwrap()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(memory.word(3).load(Ordering::SeqCst), 3000);
}

#[test]
fn reopening_a_live_file_shares_its_memory() {
    let Some(fixture) = serve(2) else { return };
    let file = client::open(&fixture.node);
    let memory = ring(&file, PAGE);
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let again = client::open(link.as_ref());
    let first = fixture.device.last_open.lock().unwrap().unwrap();
    assert!(first.sibling.is_some(), "the device is told");
    let same = client::Mapping::new(&again, PAGE).unwrap();
    memory.word(1).store(41, Ordering::SeqCst);
    assert_eq!(same.word(1).load(Ordering::SeqCst), 41);
    // The backing is held by the second when the first is gone.
    drop((file, memory));
    assert_eq!(client::ioctl(&again, client::RESULT, 4).unwrap(), 4);
    drop(client::Mapping::new(&again, PAGE).unwrap());
    assert_eq!(fixture.serving.stats().backings, 1);
    drop((again, same));
    eventually("the backing is given back", || fixture.serving.stats().backings == 0);
}

#[test]
fn two_thousand_opens_leave_nothing() {
    let Some(fixture) = serve_device(Echo::tagged("leak"), 2) else { return };
    for round in 0..2000 {
        let file = client::open(&fixture.node);
        if round % 4 == 0 {
            drop(ring(&file, PAGE));
        }
    }
    eventually("all are released", || fixture.device.live() == 0);
    assert_eq!(fixture.device.opened.load(Ordering::SeqCst), 2000);
    eventually("nothing is left", || {
        let stats = fixture.serving.stats();
        // The kernel may keep the last name it looked up.
        (stats.files, stats.unanswered, stats.backings) == (0, 0, 0) && stats.nodes <= 1
    });
    assert_eq!(fixture.device.memories(), 0, "no memory is left");
}

#[test]
fn mappings_outlive_the_daemon() {
    let Some(fixture) = serve(2) else { return };
    let file = client::open(&fixture.node);
    let memory = ring(&file, PAGE);
    memory.word(0).store(5, Ordering::SeqCst);
    assert_eq!(fixture.serving.stop().unwrap(), Ended::Stopped);
    assert_eq!(memory.word(0).fetch_add(1, Ordering::SeqCst), 5);
    // The connection ends with its last descriptor, and a child that another test has just forked may still have one.
    eventually("the connection has ended", || client::errno(client::ioctl(&file, client::RESULT, 1)) == libc::ENOTCONN);
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap();
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLERR));
    assert_eq!(client::errno((&file).read(&mut [0; 8])), libc::ENOTCONN);
    assert_eq!(client::errno(client::try_open(&fixture.node, 0)), libc::ENOENT);
    assert_eq!(fixture.device.live(), 0, "the device got its files back");
}

#[test]
fn a_killed_daemon_leaves_nothing_that_matters() {
    let Some(directory) = directory() else { return };
    let node = directory.path().join("ring");
    let mut daemon = common::start("daemon", directory.path());
    eventually("the daemon serves", || node.exists());
    let file = client::open(&node);
    let memory = ring(&file, PAGE);
    // A second daemon is told to leave the first alone.
    let live = RingFile::new(directory.path(), "ring").mount(Echo::new()).unwrap_err();
    assert!(matches!(live, Error::Mounted { .. }), "{live}");
    assert!(live.to_string().contains("served already"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(memory.word(9).fetch_add(1, Ordering::SeqCst), 0);
    assert_eq!(client::errno(client::ioctl(&file, client::RESULT, 1)), libc::ENOTCONN);
    assert_eq!(client::errno(client::try_open(&node, 0)), libc::ENOTCONN);
    // The next daemon clears the dead mount and serves.
    let session = RingFile::new(directory.path(), "ring").mount(Echo::new()).unwrap();
    let serving = session.spawn(1).unwrap();
    assert_eq!(client::ioctl(&client::open(&node), client::RESULT, 6).unwrap(), 6);
    serving.stop().unwrap();
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "unmounted down to it");
}

#[test]
fn clients_cannot_change_the_file() {
    let Some(fixture) = serve(1) else { return };
    let file = client::open(&fixture.node);
    assert_eq!(client::errno(file.set_len(1 << 20)), libc::EPERM);
    assert_eq!(client::errno(file.set_permissions(PermissionsExt::from_mode(0o777))), libc::EPERM);
    assert_eq!(client::errno(std::os::unix::fs::fchown(&file, Some(1), None)), libc::EPERM);
    let mode = nix::fcntl::FallocateFlags::empty();
    assert_eq!(nix::fcntl::fallocate(&file, mode, 0, 4096), Err(nix::Error::EOPNOTSUPP));
    assert_eq!(client::errno(std::fs::remove_file(&fixture.node)), libc::ENOSYS);
    assert!(std::fs::write(fixture.directory.path().join("other"), "x").is_err());
    assert_eq!(client::ioctl(&file, client::RESULT, 1).unwrap(), 1);
}

#[test]
fn a_shell_can_use_it() {
    let Some(fixture) = serve(2) else { return };
    // `>` opens with O_TRUNC and O_CREAT.
    let script =
        "exec 3<>\"$1\"; echo hello >&3; line=$(dd bs=64 count=1 <&3 2>/dev/null); echo more > \"$1\"; echo \"$line\"";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(&fixture.node).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_directory_looks_as_one_does() {
    let Some(directory) = directory() else { return };
    let file = RingFile::new(directory.path(), "the ring").mode(0o640).owner(0, 65534);
    let serving = file.mount(Echo::new()).unwrap().spawn(2).unwrap();
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].file_name(), "the ring");
    assert!(names[0].file_type().unwrap().is_file());
    let node = directory.path().join("the ring");
    let meta = std::fs::metadata(&node).unwrap();
    assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o100_640, 0, 65534));
    assert_eq!(std::fs::metadata(directory.path()).unwrap().mode(), 0o040_755);
    nix::sys::statvfs::statvfs(&node).unwrap();
    assert_eq!(client::errno(std::fs::metadata(directory.path().join("no"))), libc::ENOENT);
    // The kernel checks the mode: nobody in group 65534 reads, and does not write.
    std::fs::set_permissions(directory.path().parent().unwrap(), PermissionsExt::from_mode(0o1777)).unwrap();
    let as_nobody = |redirect: &str, gid| {
        use std::os::unix::process::CommandExt;
        let script = format!("exec 3{redirect} \"$1\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(&node).uid(65534).gid(gid);
        shell.stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    assert!(as_nobody("<", 65534));
    assert!(!as_nobody("<", 1));
    assert!(!as_nobody(">", 65534));
    serving.stop().unwrap();
}

#[test]
fn unmounting_under_it_ends_the_session() {
    let Some(fixture) = serve(2) else { return };
    nix::mount::umount(fixture.directory.path()).unwrap();
    assert_eq!(fixture.serving.join().unwrap(), Ended::Gone);
}

#[test]
fn a_backing_that_cannot_be() {
    let Some(directory) = directory() else { return };
    let node = directory.path().join("ring");
    let device = Echo::new();
    let file = RingFile::new(directory.path(), "ring").passthrough(Passthrough::Off);
    let serving = file.mount(device.clone()).unwrap().spawn(1).unwrap();
    assert_eq!(client::errno(client::try_open(&node, 0)), libc::EOPNOTSUPP);
    let told = Some(ReplyError::Backing(cuse_rs::Errno::EOPNOTSUPP));
    eventually("the device is told", || *device.last_open_error.lock().unwrap() == told);
    assert_eq!(device.live(), 0);
    serving.stop().unwrap();
    // Without memory the file serves all but mmap.
    let device = Arc::new(Echo { no_backing: true, ..Echo::default() });
    let file = RingFile::new(directory.path(), "ring").passthrough(Passthrough::IfAvailable);
    let serving = file.mount(device).unwrap().spawn(1).unwrap();
    let mut file = client::open(&node);
    file.write_all(b"x").unwrap();
    file.read_exact(&mut [0]).unwrap();
    drop(file);
    serving.stop().unwrap();
}

#[test]
fn directories_that_cannot_be() {
    let Some(directory) = directory() else { return };
    let missing = directory.path().join("missing");
    let error = RingFile::new(&missing, "ring").mount(Echo::new()).unwrap_err();
    assert!(matches!(error, Error::Mountpoint { .. }), "{error}");
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let error = RingFile::new(&plain, "ring").mount(Echo::new()).unwrap_err();
    assert!(error.to_string().contains("must be a directory"), "{error}");
    for name in ["", ".", "a/b", "a\0b"] {
        let error = RingFile::new(directory.path(), name).mount(Echo::new()).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
}

#[test]
fn without_permission() {
    use std::os::unix::process::CommandExt;
    let Some(_mounts) = directory() else { return };
    let mut child = common::command("unprivileged", "/mnt".as_ref());
    assert!(child.uid(65534).status().unwrap().success());
}

/// On a kernel that has passthrough, the same calls work.
#[test]
fn a_kernel_without_passthrough_says_so() {
    let Some(directory) = directory() else { return };
    match RingFile::new(directory.path(), "ring").mount(Echo::new()) {
        Ok(session) => drop(session),
        Err(error) => {
            assert!(matches!(error, Error::NoPassthrough), "{error}");
            assert!(error.to_string().contains("6.9"), "{error}");
        }
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(&directory.path().display().to_string()), "nothing stays mounted");
    let device = Arc::new(Echo { no_backing: true, ..Echo::default() });
    let file = RingFile::new(directory.path(), "ring").passthrough(Passthrough::IfAvailable);
    let serving = file.mount(device.clone()).unwrap().spawn(2).unwrap();
    scenarios::all(&directory.path().join("ring"), &device);
    serving.stop().unwrap();
}

/// No client can reach it any more, though one has it open: the kernel says nothing.
#[test]
fn a_lazily_unmounted_session_ends_under_its_clients() {
    let Some(fixture) = serve(2) else { return };
    let mut file = client::open(&fixture.node);
    // Another mount that comes and goes is nothing to end for.
    let other = tempfile::tempdir().unwrap();
    nix::mount::mount(Some("t"), other.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    nix::mount::umount(other.path()).unwrap();
    file.write_all(b"x").unwrap();
    file.read_exact(&mut [0]).unwrap();
    nix::mount::umount2(fixture.directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    eventually("the session ends", || fixture.serving.is_finished());
    assert_eq!(fixture.serving.join().unwrap(), Ended::Gone);
    assert!(file.write_all(b"x").is_err());
    assert_eq!(fixture.device.live(), 0);
}

/// Clients die in whatever they are doing; nothing of them stays, and the others do not notice.
#[test]
fn clients_killed_at_any_moment() {
    let Some(fixture) = serve_device(Echo::tagged("killed"), 3) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let calm = scope.spawn(|| {
            let mut file = client::open(&fixture.node);
            let mut rounds = 0u64;
            while !stop.load(Ordering::Acquire) {
                rounds += 1;
                file.write_all(&rounds.to_ne_bytes()).unwrap();
                let mut back = [0; 8];
                file.read_exact(&mut back).unwrap();
                assert_eq!(u64::from_ne_bytes(back), rounds);
            }
            rounds
        });
        for round in 0..24u64 {
            let mut child = common::start("busy", &fixture.node);
            let before = fixture.device.opened.load(Ordering::SeqCst);
            // Not a wait for something: the moment of death is what varies.
            std::thread::sleep(std::time::Duration::from_micros(round * 700 % 9001));
            if round % 3 != 0 {
                eventually("the child opens", || fixture.device.opened.load(Ordering::SeqCst) > before);
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        stop.store(true, Ordering::Release);
        assert!(calm.join().unwrap() > 0);
    });
    eventually("nothing is left", || {
        let stats = fixture.serving.stats();
        (stats.files, stats.unanswered, stats.backings) == (0, 0, 0)
            && stats.nodes <= 1
            && fixture.device.memories() == 0
    });
}
