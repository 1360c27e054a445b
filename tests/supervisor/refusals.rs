//! Kernels and sandboxes in which there is no supervisor: a refusal with its cause and a cure, before the program runs.
//!
//! Kernels before 5.9 are those whose seccomp and ioctl answer as theirs did (`tests/clients/deny.c`); so are later ones, which serve
//! by less than this one has.

use crate::support::{Build, compile, copy, patient, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const NEW_LISTENER: i64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as i64;
/// A listener whose calls are held against signals (Linux 5.19).
const HELD: i64 = NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as i64;
/// `SECCOMP_IOCTL_NOTIF_ADDFD`
const ADDFD: i64 = 0x4018_2103;
/// The argument that is judged: none.
const ALWAYS: i64 = 9;

/// `nlmmap WORDS...` where a call fails.
fn without(call: i64, errno: i32, argument: i64, value: i64, words: &[&str]) -> Command {
    let mut command = Command::new(compile("deny", Build::Plain));
    let mut rule = |value: i64| {
        command.args([call, errno.into(), argument, value].map(|number| number.to_string()));
    };
    rule(value);
    if (call, value) == (libc::SYS_seccomp, NEW_LISTENER) {
        // Who does not know the one does not know both.
        rule(HELD);
    }
    command.arg("--");
    command.arg(env!("CARGO_BIN_EXE_nlmmap")).args(words);
    command.env("NLMMAP_PRELOAD", crate::support::preload());
    command
}

fn refused(call: i64, errno: i32, argument: i64, value: i64, cause: &str, cure: &str) {
    let program = compile("basic", Build::Static).display().to_string();
    for words in [&["run", "--via", "supervisor", "--"][..], &["run", "--"], &["run", "--check", "--"]] {
        let words = [words, &[&program]].concat();
        let outcome = run(&mut without(call, errno, argument, value, &words), patient(30));
        assert_eq!(outcome.code, Some(126), "{words:?}: {}", outcome.describe());
        assert!(outcome.stderr.contains(cause), "{words:?}: {cause}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(cure), "{words:?}: {cure}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "the program has run");
    }
}

#[test]
fn kernels_before_5_9() {
    const CAUSE: &str = "no SECCOMP_RET_USER_NOTIF with descriptors (Linux 5.9)";
    // No listener (4.x), no descriptors (5.0 to 5.8), no seccomp(2) at all.
    refused(libc::SYS_seccomp, libc::EINVAL, 1, NEW_LISTENER, CAUSE, "5.9 or later");
    refused(libc::SYS_ioctl, libc::EINVAL, 1, ADDFD, CAUSE, "5.9 or later");
    refused(libc::SYS_seccomp, libc::ENOSYS, ALWAYS, 0, CAUSE, "5.9 or later");
}

/// A kernel that does not hold calls against signals, and one that lets an answer slip: what waits is ended by them nevertheless, and what
/// is asked for is done once, but on the first, where an answer may be lost in a microsecond: a storm of signals meets that too often for
/// a test (docs/supervisor.md, "Interrupted calls").
#[test]
fn kernels_before_5_19_and_6_18() {
    crate::support::need_root();
    let loose = [libc::SYS_seccomp, HELD];
    let slipping = [libc::SYS_uname, 0];
    for (kernel, clients) in [
        (loose, &["basic", "recv_ends signal"][..]),
        (
            slipping,
            &["basic", "interrupted restart", "interrupted", "recv_ends signal", "held", "kick_full signal"][..],
        ),
    ] {
        let [call, value] = kernel;
        let argument = if call == libc::SYS_seccomp { 1 } else { ALWAYS };
        for client in clients {
            let mut words = client.split_whitespace();
            let program = compile(words.next().expect("a name"), Build::Static).display().to_string();
            let words: Vec<&str> = words.collect();
            let words = [&["run", "--via", "supervisor", "--", &program][..], &words].concat();
            let outcome = run(&mut without(call, libc::EINVAL, argument, value, &words), patient(60));
            assert!(outcome.success(), "{client}: {}", outcome.describe());
        }
        let (state, why) = doctor(call, libc::EINVAL, argument, value, "signals");
        assert_eq!(state, if kernel == loose { "maybe" } else { "ok" }, "{why}");
    }
}

#[test]
fn sandboxes() {
    refused(libc::SYS_seccomp, libc::EPERM, ALWAYS, 0, "a seccomp filter cannot be set: EPERM", "forbids seccomp(2)");
    refused(libc::SYS_pidfd_getfd, libc::EPERM, ALWAYS, 0, "pidfd_getfd: EPERM", "--cap-add SYS_PTRACE");
    refused(libc::SYS_pidfd_open, libc::ENOSYS, ALWAYS, 0, "pidfd_getfd: ENOSYS", "pidfd_open");
    refused(libc::SYS_process_vm_readv, libc::EPERM, ALWAYS, 0, "process_vm_readv: EPERM", "--cap-add SYS_PTRACE");
    refused(libc::SYS_ptrace, libc::EPERM, ALWAYS, 0, "ptrace: EPERM", "a thread has one tracer");
}

/// The state of a check of `nlmmap doctor`, and why.
fn doctor(call: i64, errno: i32, argument: i64, value: i64, name: &str) -> (String, String) {
    let outcome = run(&mut without(call, errno, argument, value, &["doctor", "--json"]), patient(60));
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.describe()));
    // Programs that a library enters need none of it.
    assert_eq!(report["works"], true, "{report:#}");
    let checks = report["checks"].as_array().expect("checks");
    let check = checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no check `{name}`"));
    let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
    assert!(text("state") == "ok" || !text("cure").is_empty(), "{check}");
    (text("state"), text("why"))
}

#[test]
fn the_doctor_says_what_is_missing() {
    let nothing = [libc::SYS_getppid, 0, ALWAYS, 0];
    for name in ["notification", "signals", "pidfd_getfd", "process_vm_readv", "ptrace", "a program"] {
        assert_eq!(doctor(nothing[0], 0, ALWAYS, 0, name).0, "ok", "{name}");
    }
    let (state, why) = doctor(libc::SYS_ioctl, libc::EINVAL, 1, ADDFD, "notification");
    assert!(state == "no" && why.contains("Linux 5.9"), "{state} {why}");
    let (state, why) = doctor(libc::SYS_pidfd_getfd, libc::EPERM, ALWAYS, 0, "pidfd_getfd");
    assert!(state == "no" && why.contains("EPERM"), "{state} {why}");
    let (state, why) = doctor(libc::SYS_ptrace, libc::EPERM, ALWAYS, 0, "a program");
    assert!(state == "no" && why.contains("ptrace: EPERM"), "{state} {why}");
}

#[test]
fn under_a_tracer_it_is_said() {
    if run(Command::new("strace").arg("-V"), patient(10)).code != Some(0) {
        crate::support::say("not run here: strace");
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", env!("CARGO_BIN_EXE_nlmmap"), "run", "--via", "supervisor", "--", "true"]);
    let outcome = run(&mut command, patient(30));
    assert_eq!(outcome.code, Some(126), "{}", outcome.describe());
    assert!(outcome.stderr.contains("ptrace: EPERM") && outcome.stderr.contains("strace"), "{}", outcome.stderr);
}

/// A directory where set-user-id bits count, if there is one.
fn place() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let flags = nix::sys::statvfs::statvfs(dir.path()).expect("its file system").flags();
    (!flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID)).then_some(dir)
}

#[test]
fn programs_that_would_gain_rights_are_refused_and_executed_ones_gain_none() {
    crate::support::need_root();
    let Some(dir) = place() else {
        crate::support::say("not run here: set-user-id bits do not count here");
        return;
    };
    // Somebody without rights has to get there.
    copy(Path::new(env!("CARGO_BIN_EXE_nlmmap")), &dir.path().join("nlmmap"), 0o755);
    copy(&compile("supervised", Build::Static), &dir.path().join("plain"), 0o755);
    copy(&compile("supervised", Build::Static), &dir.path().join("root"), 0o4755);
    let command = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-ec"]);
        // The directories above may be closed to others.
        command
            .args([r#"mount --bind "$0" /mnt; cd /mnt; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@""#]);
        command.arg(dir.path()).args(words);
        command
    };
    for via in [&["./nlmmap", "run", "--"][..], &["./nlmmap", "run", "--via", "supervisor", "--"]] {
        let outcome = run(&mut command(&[via, &["./root", "passed"]].concat()), patient(30));
        assert_eq!(outcome.code, Some(126), "{}", outcome.describe());
        assert!(outcome.stderr.contains("set-user-id (uid 0)"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("gains no rights") && outcome.stderr.contains("sudo"), "{}", outcome.stderr);
    }
    for second in ["./plain", "./root"] {
        let words = ["./nlmmap", "run", "--", "./plain", "executed", second];
        let outcome = run(&mut command(&words), patient(30));
        assert!(outcome.success(), "{second}: {}", outcome.describe());
    }
}
