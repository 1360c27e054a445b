//! `nlmmap doctor` reports what is so, for people and for scripts.

use serde_json::Value;

use crate::support::{compile, directory, library, nlmmap, texts};

/// The report as JSON, and the exit status.
fn report(preload: &str) -> (Option<i32>, Value) {
    let output = nlmmap().env("NLMMAP_PRELOAD", preload).args(["doctor", "--json"]).output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!(err, "");
    (status, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}")))
}

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no check `{name}`"))
}

#[test]
fn it_works_here_and_says_so() {
    let (status, report) = report(library().to_str().unwrap());
    assert_eq!(status, Some(0), "{report:#}");
    assert_eq!(report["works"], true);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["kernel"], kernel.trim());
    assert_eq!(check(&report, "library")["state"], "ok");
    assert_eq!(check(&report, "glibc program")["state"], "ok");
    // Musl may be missing here, but where it is there it has to work.
    assert_ne!(check(&report, "musl program")["state"], "no", "{report:#}");
    assert_eq!(check(&report, "ROUTE")["state"], "ok");
}

#[test]
fn every_line_has_a_reason_and_every_refusal_a_cure() {
    let (_, report) = report(library().to_str().unwrap());
    for check in report["checks"].as_array().unwrap() {
        let state = check["state"].as_str().unwrap();
        assert!(["ok", "no", "maybe"].contains(&state), "{check}");
        assert!(!check["why"].as_str().unwrap().is_empty(), "{check}");
        assert!(!check["group"].as_str().unwrap().is_empty(), "{check}");
        assert!(state != "no" || check["cure"].is_string(), "{check}");
    }
}

#[test]
fn without_a_library_it_does_not_work() {
    let (status, report) = report("/nowhere/x.so");
    assert_eq!((status, &report["works"]), (Some(1), &Value::Bool(false)));
    let library = check(&report, "library");
    assert_eq!(library["state"], "no");
    assert!(library["cure"].as_str().unwrap().contains("NLMMAP_PRELOAD"));
}

/// It has the right symbol and cannot be loaded: only a real try finds that out.
#[test]
fn a_library_that_does_not_load_is_found_out() {
    let dir = directory();
    let needed = compile(&dir, "libgone.so", "int gone;\n", &["-shared", "-fPIC", "-Wl,-soname,libgone.so"]);
    let source = "extern int gone;\nunsigned int nlmmap_preload_abi = 1;\nint *use(void) { return &gone; }\n";
    let flags = ["-shared", "-fPIC", needed.to_str().unwrap()];
    let broken = compile(&dir, "broken.so", source, &flags);
    std::fs::remove_file(&needed).unwrap();
    let (status, report) = report(broken.to_str().unwrap());
    assert_eq!(status, Some(1));
    assert_eq!(check(&report, "library")["state"], "ok");
    let entered = check(&report, "glibc program");
    assert_eq!(entered["state"], "no");
    assert!(entered["why"].as_str().unwrap().contains("libgone.so"), "{entered}");
}

#[test]
fn people_get_the_same_lines() {
    let (status, out, err) = texts(&nlmmap().arg("doctor").output().unwrap());
    assert_eq!((status, err.as_str()), (Some(0), ""));
    let (_, report) = report(library().to_str().unwrap());
    for check in report["checks"].as_array().unwrap() {
        let name = check["name"].as_str().unwrap();
        let state = check["state"].as_str().unwrap();
        assert!(out.lines().any(|l| l.starts_with(&format!("  {state:<6} {name} "))), "{name}:\n{out}");
    }
    assert!(out.ends_with("`nlmmap run` works here\n"), "{out}");
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let script = format!("{} doctor | true", crate::support::NLMMAP);
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(texts(&output), (Some(0), String::new(), String::new()));
}
