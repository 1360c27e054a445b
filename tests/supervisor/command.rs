//! The command: which way is taken, what is said, how it ends.

use crate::support::{Build, compile, run, scratch};
use std::io::{BufRead, BufReader};
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

/// Endpoints, frames received and sent, of what `shown` does under the supervisor and of what is counted.
fn summed(way: &str) -> (crate::support::Outcome, [u64; 3]) {
    let file = scratch("summary");
    let mut command = nlmmap(&["run", "--summary=json", "--summary-file"]);
    command.arg(&file).arg("--").arg(compile("shown", Build::Static)).args([way, "5"]).env_remove("NLMMAP_VIEW");
    let outcome = run(&mut command, limit());
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    let summary: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{way}: {e}: {text}: {}", outcome.describe()));
    let number = |name: &str| summary["total"][name].as_u64().expect("a number");
    let endpoints = summary["endpoints"].as_array().expect("a list");
    assert!(endpoints.iter().all(|e| e["command"].as_str().is_some_and(|c| c.starts_with("shown"))), "{summary}");
    (outcome, [endpoints.len() as u64, number("rx_frames") + number("rx_copies"), number("tx_frames")])
}

#[test]
fn a_supervised_run_is_summed_up() {
    for _ in 0..5 {
        for (way, code, signal, sums) in [
            ("return", Some(0), None, [1, 5, 5]),
            ("_exit", Some(7), None, [1, 5, 5]),
            ("close", Some(0), None, [1, 5, 5]),
            ("fork", Some(0), None, [2, 15, 15]),
            ("kill", None, Some(9), [1, 5, 5]),
            ("abort", None, Some(6), [1, 5, 5]),
        ] {
            let (outcome, counted) = summed(way);
            assert_eq!((outcome.code, outcome.signal), (code, signal), "{way}: {}", outcome.describe());
            assert_eq!(counted, sums, "{way}");
        }
    }
}

#[test]
fn supervised_sockets_are_shown() {
    use std::os::unix::fs::PermissionsExt;
    // Nobody else may look into it.
    let mut builder = tempfile::Builder::new();
    let dir = builder.permissions(std::fs::Permissions::from_mode(0o700)).tempdir().expect("a directory");
    let mut command = nlmmap(&["run", "--"]);
    command.arg(compile("shown", Build::Static)).args(["hold", "5"]).env("NLMMAP_VIEW", dir.path());
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(client.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let mut stat = nlmmap(&["stat", "--json"]);
    let outcome = run(stat.env("NLMMAP_VIEW", dir.path()), limit());
    let _ = client.kill();
    let _ = client.wait();
    assert!(outcome.success(), "{}", outcome.describe());
    let pid = format!("\"pid\":{}", client.id());
    let text = outcome.stdout.replace(": ", ":");
    assert!(text.contains(&pid) && text.contains("\"rx_frames\":5"), "{pid}: {}", outcome.stdout);
    // The page goes with the socket.
    let until = std::time::Instant::now() + limit();
    while std::fs::read_dir(dir.path()).expect("a directory").next().is_some() {
        assert!(std::time::Instant::now() < until, "the page is left behind");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_device_and_a_supervisor_exclude_each_other() {
    let outcome = run(&mut nlmmap(&["run", "--via", "supervisor", "--device", "/dev/null", "--", "true"]), limit());
    assert_eq!(outcome.code, Some(2), "{}", outcome.describe());
}
