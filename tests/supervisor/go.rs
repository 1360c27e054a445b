//! A go program without cgo: raw system calls, an epoll instance of its own, goroutines, and a runtime that interrupts by signals.

use crate::support::{repository, run, say, scratch};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// `tests/clients/ring.go`, or nothing where there is no go.
fn build() -> Option<PathBuf> {
    let program = scratch("go").join("ring");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(repository().join("tests/clients/ring.go"));
    go.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", program.with_file_name("cache"));
    match go.output() {
        Err(error) => {
            say(&format!("not run here: go: {error}"));
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(program)
        }
    }
}

#[test]
fn a_go_program_dumps_and_judges() {
    const QUEUE: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5; ";
    let Some(program) = build() else { return };
    for (arguments, setup) in [(["dump", "50"], ""), (["queue", "5000"], QUEUE)] {
        for supervised in [false, true] {
            let script = if supervised {
                format!("{setup}exec {} run -- \"$@\"", env!("CARGO_BIN_EXE_nlmmap"))
            } else {
                format!("{setup}exec \"$@\"")
            };
            let mut command = Command::new("unshare");
            command.env("NLMMAP_PRELOAD", crate::support::preload());
            command.args(["--net", "sh", "-ec", &script, "sh"]).arg(&program).args(arguments);
            let outcome = run(&mut command, Duration::from_secs(60));
            let expected = if supervised { 0 } else { 3 };
            assert_eq!(outcome.code, Some(expected), "{arguments:?} {}", outcome.describe());
        }
    }
    program.parent().map(std::fs::remove_dir_all);
}
