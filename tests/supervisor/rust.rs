//! A rust program, linked statically, beside the same one with the library in it.

use crate::support::{Outcome, patient, repository, run, say, scratch};
use std::path::{Path, PathBuf};
use std::process::Command;

const QUEUE: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5; ";

/// `tests/clients/ring.rs`, by more words for the compiler. `None`: it has no such target here.
fn build(dir: &Path, name: &str, words: &[&str]) -> Option<PathBuf> {
    let program = dir.join(name);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-O", "-D", "warnings"]).args(words).arg("-o").arg(&program);
    let output = rustc.arg(repository().join("tests/clients/ring.rs")).output().expect("rustc, which built this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    if words.contains(&"--target") && errors.contains("target may not be installed") {
        say(&format!("not run here: {words:?}: the target is not installed"));
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(program)
}

/// Runs it in a namespace of its own, behind these words.
fn started(program: &Path, before: &[&str], mode: [&str; 2]) -> Outcome {
    let mut command = Command::new("unshare");
    command.env("NLMMAP_PRELOAD", crate::support::preload());
    command.args(["--net", "sh", "-ec", &format!("{QUEUE}exec \"$@\""), "sh"]);
    command.args(before).arg(program).args(mode);
    run(&mut command, patient(60))
}

#[test]
fn a_rust_program_dumps_and_judges() {
    let nlmmap = env!("CARGO_BIN_EXE_nlmmap");
    let dir = scratch("rust");
    std::fs::create_dir_all(&dir).expect("a directory");
    let dynamic = build(&dir, "dynamic", &[]).expect("the compiler's own target");
    let fixed = [
        build(&dir, "static", &["-C", "target-feature=+crt-static"]),
        build(&dir, "musl", &["--target", "x86_64-unknown-linux-musl"]),
    ];
    for mode in [["dump", "50"], ["queue", "5000"]] {
        let entered = started(&dynamic, &[nlmmap, "run", "--via", "preload", "--"], mode);
        assert!(entered.success(), "{mode:?} {}", entered.describe());
        for program in fixed.iter().flatten() {
            let refused = started(program, &[], mode);
            assert_eq!(refused.code, Some(3), "{mode:?} {}", refused.describe());
            let supervised = started(program, &[nlmmap, "run", "--"], mode);
            assert!(supervised.success(), "{mode:?} {}", supervised.describe());
            assert_eq!(supervised.stdout, entered.stdout, "{mode:?}");
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}
