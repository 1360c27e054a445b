//! The command: which way is taken, what is said, how it ends.

use crate::support::{Build, compile, run};
use std::process::{Command, Stdio};
use std::time::Duration;

fn nlmmap(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmmap"));
    command.args(arguments).env("NLMMAP_PRELOAD", crate::support::preload()).stdin(Stdio::null());
    command
}

fn limit() -> Duration {
    Duration::from_secs(30)
}

#[test]
fn auto_takes_the_way_that_is_open() {
    let (dynamic, fixed) = (compile("basic", Build::Plain), compile("basic", Build::Static));
    for (program, supervised) in [(&dynamic, false), (&fixed, true)] {
        let outcome = run(nlmmap(&["run", "--log", "info", "--"]).arg(program), limit());
        assert!(outcome.success(), "{}", outcome.describe());
        assert_eq!(outcome.stderr.contains("nlmmap: by a supervisor: "), supervised, "{}", outcome.stderr);
        assert_eq!(outcome.stderr.contains("nlmmap: by the library in it: "), !supervised, "{}", outcome.stderr);
        assert_eq!(outcome.stderr.contains("nlmmap[supervisor]"), supervised, "{}", outcome.stderr);
    }
    // Which needs no library.
    let outcome = run(nlmmap(&["run", "--"]).arg(&fixed).env("NLMMAP_PRELOAD", "/nowhere"), limit());
    assert!(outcome.success(), "{}", outcome.describe());
    let outcome = run(nlmmap(&["run", "--via", "preload", "--"]).arg(&fixed), limit());
    assert_eq!(outcome.code, Some(126));
    let outcome = run(nlmmap(&["run", "--check", "--"]).arg(&fixed), limit());
    assert!(outcome.success() && outcome.stdout.contains("can be supervised"), "{}", outcome.describe());
}

#[test]
fn the_program_is_the_process_and_its_end_the_end() {
    // No child of the program's, its exit status, its output's end.
    let script = "read -r pid rest </proc/self/stat; wait; echo $PPID; exit 7";
    let outcome =
        run(nlmmap(&["run", "--via", "supervisor", "--", "sh", "-c", script]).stdout(Stdio::piped()), limit());
    assert_eq!(outcome.code, Some(7), "{}", outcome.describe());
    assert_eq!(outcome.stdout.trim(), std::process::id().to_string());
}

#[test]
fn a_supervisor_inside_another_is_refused() {
    let inner = env!("CARGO_BIN_EXE_nlmmap");
    let outer = ["run", "--via", "supervisor", "--", inner, "run", "--via", "supervisor", "--", "true"];
    let outcome = run(&mut nlmmap(&outer), limit());
    assert_eq!(outcome.code, Some(126), "{}", outcome.describe());
    assert!(outcome.stderr.contains("supervised already"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("cure: start the inner program as it is"), "{}", outcome.stderr);
}

#[test]
fn without_descriptors_there_are_no_rings() {
    let command = "ulimit -n 40; exec \"$0\" run --via supervisor -- true";
    let outcome = run(Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_nlmmap")]), limit());
    assert_eq!(outcome.code, Some(126), "{}", outcome.describe());
    assert!(outcome.stderr.contains("limit of open files (40)"), "{}", outcome.stderr);
}

#[test]
fn a_device_and_a_supervisor_exclude_each_other() {
    let outcome = run(&mut nlmmap(&["run", "--via", "supervisor", "--device", "/dev/null", "--", "true"]), limit());
    assert_eq!(outcome.code, Some(2), "{}", outcome.describe());
}
