//! What keeps a daemon from starting: each is told with its cause and its cure, has an exit status for scripts, and leaves nothing.
//!
//! Others of this kind are beside what they are about: a second daemon and wrong arguments (`lifecycle`), configurations (`broken`),
//! places of metrics (`metrics`).

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::daemon::{Place, client, output, passes};
use crate::support::say;

/// What a command does before it becomes the daemon, in a mount namespace of its own.
fn after(script: &str) -> Vec<String> {
    let script = format!("{script} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(String::from).into()
}

/// The daemon does not start: its status, and what it says. Nothing is left.
#[track_caller]
fn is_refused(place: &Place, code: i32, words: &[&str]) {
    let refused = output(&mut place.serve());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "it does not say {word:?}:\n{text}");
    }
    assert!(refused.stdout.is_empty(), "it prints");
    let left = |path: &str| fs::read_dir(place.path(path)).map_or(0, Iterator::count);
    assert_eq!(left("run"), 0, "files are left");
    assert!(!place.path("node").exists() && !Path::new("/dev").join(&place.name).exists(), "a node is left");
}

#[test]
fn without_its_driver_the_module_is_named() {
    for (cuse, words) in [(false, ["no /dev/fuse", "modprobe fuse"]), (true, ["no /dev/cuse", "modprobe cuse"])] {
        let mut place = Place::new();
        place.cuse = cuse;
        place.wrap = after("mount -t tmpfs devices /dev && mknod -m 666 /dev/null c 1 3");
        is_refused(&place, 4, &words);
        if !Path::new(if cuse { "/dev/cuse" } else { "/dev/fuse" }).exists() {
            place.wrap.clear();
            is_refused(&place, 4, &words);
        }
    }
}

#[test]
fn root_without_the_right_to_it_is_told_which() {
    for cuse in [false, true] {
        let mut place = Place::new();
        place.cuse = cuse;
        place.wrap = ["setpriv", "--bounding-set", "-sys_admin"].map(String::from).into();
        is_refused(&place, 5, &["needs CAP_SYS_ADMIN", "cure: give it back"]);
    }
}

#[test]
fn an_old_kernel_has_no_ring_file_and_auto_takes_a_character_device() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) >= (Some(6), Some(9)) {
        return say("not run here: this kernel has passthrough (Linux 6.9)");
    }
    let mut place = Place::new();
    place.cuse = false;
    is_refused(&place, 4, &["passthrough", "6.9", "--node cuse"]);
    place.cuse = true;
    place.args = vec!["--node".into(), "auto".into()];
    let daemon = place.start();
    daemon.says("trying a character device");
    passes(client("device_dump").arg(place.node()).arg("poll"), &daemon);
    daemon.stop();
}

/// Full of files, and full of bytes.
#[test]
fn a_full_file_system_is_named_with_what_helps() {
    let full = |place: &Place, name: &str, options: &str| {
        let at = place.path(name);
        fs::create_dir_all(&at).expect("a directory");
        let at = at.display();
        after(&format!(
            "mount -t tmpfs -o {options} full {at} && touch {at}/file && {{ head -c 9999 /dev/zero 2> /dev/null > {at}/file; true; }}"
        ))
    };
    let mut place = Place::new();
    place.wrap = full(&place, "run", "size=1m,nr_inodes=2");
    is_refused(
        &place,
        1,
        &["/run", "No space left on device", "cure: make room there, or choose another --runtime-dir"],
    );
    let mut place = Place::new();
    if !place.cuse {
        place.wrap = full(&place, "other", "size=1m,nr_inodes=2");
        for option in ["--path", "--link"] {
            place.args = vec![option.into(), place.path("other/there").display().to_string()];
            let cure = format!("cure: make room there, or choose another {option}");
            is_refused(&place, 1, &["other/there", "No space left on device", &cure]);
        }
    }
    // The note for the next daemon is not needed to serve; that it is missing is said.
    let mut place = Place::new();
    place.wrap = full(&place, "run", "size=4k");
    let daemon = place.start();
    if !place.cuse {
        daemon.says(".lock: make room there, or after a kill");
        daemon.says("error=No space left on device");
    }
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}
