//! From the first open to the daemon's end, and what is left behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::daemon::{NLMMAP, Place, client, is_about_ring_files, output, passes, uses_cuse};
use crate::support::patient;

nix::ioctl_write_ptr!(make_socket, 0xDA, 1, [u32; 2]);
nix::ioctl_write_ptr!(bind, 0xDA, 2, [u32; 3]);
nix::ioctl_write_ptr!(set_rx_ring, 0xDA, 9, [u32; 4]);

/// An open node with a ROUTE socket.
pub fn open_plain(place: &Place) -> File {
    let file = File::options().read(true).write(true).open(place.node()).expect("the node opens");
    // SAFETY: the arguments are those of the ioctls.
    unsafe {
        make_socket(file.as_raw_fd(), &[libc::SOCK_RAW as u32, 0]).expect("a socket");
        bind(file.as_raw_fd(), &[libc::AF_NETLINK as u32, 0, 0]).expect("bound");
    }
    file
}

/// An open node with a ROUTE socket and a receive ring of 64 KiB.
pub fn open(place: &Place) -> File {
    let file = open_plain(place);
    // SAFETY: the argument is that of the ioctl.
    unsafe {
        set_rx_ring(file.as_raw_fd(), &[65536, 1, 4096, 16]).expect("a ring");
    }
    file
}

/// How many descriptors a process has, once that no longer falls.
fn descriptors_at_rest(pid: u32) -> usize {
    let count = || fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon's descriptors").count();
    let mut seen = count();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = count();
        if now >= seen {
            return now;
        }
        seen = now;
    }
}

/// Processor time of a process in clock ticks (hundredths of a second).
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number")).sum()
}

#[test]
fn many_open_files_are_independent_and_leave_nothing() {
    let place = Place::new();
    let daemon = place.start();
    // Once round, for what the daemon makes at the first use.
    drop((0..200).map(|_| open(&place)).collect::<Vec<_>>());
    daemon.wait_for_opens(0);
    let before = descriptors_at_rest(daemon.pid());
    let mut files: Vec<File> = (0..200).map(|_| open(&place)).collect();
    let stat = daemon.wait_for_opens(200);
    assert_eq!(stat["ring_bytes"], 200 * 65536);
    assert_eq!(stat["endpoints"].as_array().map(Vec::len), Some(200));
    let first = &stat["endpoints"][0];
    assert_eq!((&first["pid"], &first["family"]), (&std::process::id().into(), &0.into()));
    assert_eq!(first["rx"]["frames"], 16);
    for file in &mut files {
        // RTM_GETLINK of loopback, with the acknowledgement of nothing else.
        let mut request = [32u32, 18 | 1 << 16, 1, 0, 0, 1, 0, 0].map(u32::to_ne_bytes).concat();
        request[4..8].copy_from_slice(&[18, 0, 1, 0]);
        file.write_all(&request).expect("sent");
    }
    let stat = daemon.stat();
    for endpoint in stat["endpoints"].as_array().expect("a list") {
        let came = endpoint["rx_frames"].as_u64().unwrap_or(0) + endpoint["rx_copies"].as_u64().unwrap_or(0);
        assert_eq!(came, 1, "{endpoint}");
    }
    // With everything open and nothing to do, nothing is done.
    let (start, pause) = (ticks(daemon.pid()), Duration::from_secs(2));
    std::thread::sleep(pause);
    let used = ticks(daemon.pid()) - start;
    assert!(used <= 2, "{used} ticks of processor time in {pause:?} of idleness");
    drop(files);
    daemon.wait_for_opens(0);
    assert_eq!(descriptors_at_rest(daemon.pid()), before, "descriptors of the daemon");
    daemon.stop();
}

#[test]
fn killed_clients_leave_nothing() {
    let place = Place::new();
    let daemon = place.start();
    let children: Vec<_> = (0..20)
        .map(|i| {
            let mut command = client("device_dump");
            command.arg(place.node()).arg("poll").arg("hold").stdout(Stdio::piped());
            let mut child = command.spawn().expect("a client");
            if i % 2 == 0 {
                // This one is killed asleep, with its rings mapped; the others wherever they are.
                let mut line = String::new();
                BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
                assert!(line.starts_with("routes"), "{line}");
            }
            child
        })
        .collect();
    for mut child in children {
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    daemon.wait_for_opens(0);
    passes(client("device_dump").arg(place.node()).arg("edge"), &daemon);
    daemon.stop();
}

#[test]
fn the_end_by_sigterm_leaves_nothing_with_clients_in_the_middle() {
    let place = Place::new();
    let daemon = place.start();
    let mut held = open(&place);
    let mut command = client("device_dump");
    command.arg(place.node()).arg("poll").arg("hold").stdout(Stdio::piped());
    let mut sleeper = command.spawn().expect("a client");
    let mut line = String::new();
    BufReader::new(sleeper.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    daemon.stop();
    let error = held.write_all(&[0; 16]).expect_err("nobody is there");
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV | libc::ECONNABORTED)), "{error}");
    assert!(sleeper.try_wait().expect("a child").is_none(), "a client ended with the daemon");
    sleeper.kill().expect("killed");
    sleeper.wait().expect("gone");
}

#[test]
fn a_killed_daemon_is_followed_by_the_next() {
    let place = Place::new();
    let daemon = place.start();
    let mut held = open(&place);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    held.write_all(&[0; 16]).expect_err("nobody is there");
    // The mount, the directory, the lock and the control socket of the dead one are in the way.
    let daemon = place.start();
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    held.write_all(&[0; 16]).expect_err("an open file of the dead daemon");
    // And what the dead one made goes with this one.
    daemon.stop();
}

#[test]
fn what_a_killed_daemon_left_elsewhere_goes_with_the_next() {
    if is_about_ring_files() {
        return;
    }
    let mut place = Place::new();
    let (link, other) = (place.path("link"), place.path("node2"));
    place.args = vec!["--link".into(), link.display().to_string(), "--path".into(), other.display().to_string()];
    let mut command = place.serve();
    command.env("NOTIFY_SOCKET", place.path("nobody")).stderr(Stdio::null());
    let mut child = command.spawn().expect("a daemon");
    wait_for(|| fs::read_link(&link).is_ok(), || "no link".into());
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(fs::symlink_metadata(&link).is_ok());
    place.args = Vec::new();
    let daemon = place.start();
    assert!(fs::symlink_metadata(&link).is_err(), "the dead daemon's link");
    assert!(fs::symlink_metadata(&other).is_err(), "the dead daemon's directory");
    daemon.stop();
}

#[test]
fn a_directory_and_a_link_that_were_there_stay() {
    if is_about_ring_files() {
        return;
    }
    let mut place = Place::new();
    let link = place.path("link");
    fs::create_dir(place.path("node")).expect("a directory");
    place.args = vec!["--link".into(), link.display().to_string()];
    std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
    let refused = output(&mut place.serve());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{text}");
    assert!(text.contains("a symbolic link to /dev/null") && text.contains("cure: "), "{text}");
    assert_eq!(fs::read_link(&link).expect("it is there").to_str(), Some("/dev/null"));
    fs::remove_file(&link).expect("removed");
    // Killed and started again: what was not made by either is removed by neither.
    let daemon = place.start();
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let daemon = place.start();
    passes(client("device_dump").arg(&link).arg("poll"), &daemon);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(fs::symlink_metadata(&link).is_err(), "the link is left");
    fs::remove_dir(place.path("node")).expect("the directory is there, and empty");
    place.is_clean();
}

#[test]
fn a_second_daemon_of_one_name_is_refused() {
    let place = Place::new();
    let daemon = place.start();
    let second = output(&mut place.serve());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{text}");
    assert!(text.contains("served already") && text.contains("cure: stop that daemon"), "{text}");
    if !uses_cuse() {
        // Another name, the same directory.
        let mut third = Command::new(NLMMAP);
        third.args(["serve", "--node", "fuse", "--name", "other", "--runtime-dir"]).arg(place.path("run2"));
        third.arg("--path").arg(place.path("node"));
        let third = output(&mut third);
        let text = String::from_utf8_lossy(&third.stderr).into_owned();
        assert_eq!(third.status.code(), Some(3), "{text}");
        assert!(text.contains("is served already"), "{text}");
    }
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    daemon.stop();
}

#[test]
fn limits_hold_and_are_read_again() {
    let mut place = Place::new();
    let config = place.path("config.toml");
    fs::write(&config, "[limits]\nopens = 2\nopens_per_uid = 2\nring_bytes_per_open = 65536\n")
        .expect("a configuration");
    place.args = vec!["--config".into(), config.display().to_string()];
    let daemon = place.start();
    let again = || File::options().read(true).write(true).open(place.node());
    let held = [open(&place), open(&place)];
    assert_eq!(again().expect_err("too many").raw_os_error(), Some(libc::ENFILE));
    // SAFETY: the argument is that of the ioctl.
    let more = unsafe { set_tx_ring(held[0].as_raw_fd(), &[4096, 1, 4096, 1]) };
    assert_eq!(more, Err(nix::errno::Errno::ENOMEM));
    wait_for(|| daemon.log().contains("ring_bytes_per_open"), || daemon.log());

    fs::write(&config, "[limits]\nopens = \"many\"\n").expect("a configuration");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.log().contains("configuration kept as it was"), || daemon.log());
    assert!(again().is_err(), "the limits of before hold");

    fs::write(&config, "[limits]\nopens = 3\nopens_per_uid = 3\n").expect("a configuration");
    daemon.signal(Signal::SIGHUP);
    wait_for(|| daemon.log().contains("configuration read"), || daemon.log());
    let third = again().expect("one more");
    drop((held, third));
    daemon.wait_for_opens(0);
    daemon.stop();
}

nix::ioctl_write_ptr!(set_tx_ring, 0xDA, 10, [u32; 4]);

#[track_caller]
pub fn wait_for(mut done: impl FnMut() -> bool, log: impl Fn() -> String) {
    let until = Instant::now() + patient(20);
    while !done() {
        assert!(Instant::now() < until, "{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_arguments_and_configurations_say_what_is_wrong() {
    let mut place = Place::new();
    let config = place.path("config.toml");
    fs::write(&config, "[limits]\nopenz = 2\n").expect("a configuration");
    place.args = vec!["--config".into(), config.display().to_string()];
    let refused = output(&mut place.serve());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("openz"));
    place.args = vec!["--mode".into(), "999".into()];
    assert_eq!(output(&mut place.serve()).status.code(), Some(2));
    place.args.clear();
    let mut unprivileged = place.serve();
    unprivileged.uid(65534).gid(65534);
    let refused = output(&mut unprivileged);
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(refused.stdout.is_empty());
}

#[test]
fn an_unmounted_ring_file_ends_its_daemon() {
    if is_about_ring_files() {
        return;
    }
    let place = Place::new();
    let daemon = place.start();
    // With a client that has it open, too: the kernel tells the daemon nothing then.
    let mut held = open(&place);
    nix::mount::umount2(&place.path("node"), nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    assert_eq!(daemon.wait().code(), Some(1));
    held.write_all(&[0; 16]).expect_err("nobody is there");
    let log = fs::read_to_string(place.path("log")).expect("a log");
    assert!(log.contains("the kernel has taken the node away") && log.contains("cure: "), "{log}");
    place.is_clean();
}

#[test]
fn a_flooded_client_that_never_reads_delays_nobody() {
    let place = Place::new();
    let daemon = place.start();
    // A member of every link event, with a ring that is full at once and never released.
    let victim = File::options().read(true).write(true).open(place.node()).expect("the node opens");
    // SAFETY: the arguments are those of the ioctls.
    unsafe {
        make_socket(victim.as_raw_fd(), &[libc::SOCK_RAW as u32, libc::NETLINK_USERSOCK as u32]).expect("a socket");
        bind(victim.as_raw_fd(), &[libc::AF_NETLINK as u32, 0, 1 << 4]).expect("bound");
        set_rx_ring(victim.as_raw_fd(), &[4096, 1, 1024, 4]).expect("a ring");
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = stop.clone();
    let flood = std::thread::spawn(move || {
        use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
        use nix::sys::socket::{sendto, socket};
        let kind = SockProtocol::NetlinkUserSock;
        let sock = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, kind).expect("a socket");
        let group = NetlinkAddr::new(0, 1 << 4);
        let mut sent = 0u64;
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            // ECONNREFUSED is the unicast part, to a kernel that does not listen; ENOBUFS the victim's loss.
            let _ = sendto(std::os::fd::AsRawFd::as_raw_fd(&sock), &[0; 64], &group, MsgFlags::MSG_DONTWAIT);
            sent += 1;
        }
        sent
    });
    for wait in ["poll", "level", "edge"] {
        passes(client("device_dump").arg(place.node()).arg(wait), &daemon);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    // A congested group makes its sender give way: on a busy machine this is no fast flood.
    assert!(flood.join().expect("the flood") > 50);
    let stat = daemon.stat();
    let endpoint = &stat["endpoints"][0];
    assert_eq!(endpoint["occupied"], 4, "{endpoint}");
    drop(victim);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn stat_does_not_wait_for_a_stopped_daemon() {
    let place = Place::new();
    let daemon = place.start();
    daemon.signal(Signal::SIGSTOP);
    let mut command = Command::new(NLMMAP);
    command.args(["stat", "--name", &place.name, "--runtime-dir"]).arg(place.path("run"));
    let asked = output(&mut command);
    daemon.signal(Signal::SIGCONT);
    let text = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{text}");
    let pid = daemon.pid();
    assert!(text.contains(&format!("the daemon (pid {pid}) is stopped")), "{text}");
    assert!(text.contains(&format!("cure: let it go on: kill -CONT {pid}")), "{text}");
    daemon.stat();
    daemon.stop();
}
