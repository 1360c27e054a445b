//! Bash's own tests, from Debian's source: scripts whose output is compared with what is written down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cage::Cage;
use super::{Outcomes, Part, sources};

/// Those about redirections, processes, descriptors and signals that do not take long.
const BRIEF: &[&str] = &[
    "comsub",
    "comsub-posix",
    "dstack",
    "execscript",
    "exp-tests",
    "heredoc",
    "herestr",
    "input-test",
    "lastpipe",
    "mapfile",
    "procsub",
    "redir",
    "rsh",
    "set-e",
    "vredir",
];
const SECONDS: u32 = 90;

pub fn parts(home: &Path, brief: bool) -> Result<Vec<Part>, String> {
    let source = sources::of("bash", home)?;
    let tests = source.join("tests");
    helpers(&source)?;
    let mut names: Vec<String> = fs::read_dir(&tests)
        .map_err(|e| format!("{}: {e}", tests.display()))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("run-").map(str::to_owned))
        // All of them, and a build for another tool.
        .filter(|name| !["all", "minimal", "gprof"].contains(&name.as_str()))
        .filter(|name| !brief || BRIEF.contains(&name.as_str()))
        .collect();
    names.sort();
    let part = |name: String| {
        let tests = tests.clone();
        Part { suite: "bash", name: name.clone(), run: Box::new(move |cage| run(cage, &tests, &name)) }
    };
    Ok(names.into_iter().map(part).collect())
}

/// Small programs that the scripts call. They want nothing of what a configured build says but that headers are there.
fn helpers(source: &Path) -> Result<(), String> {
    let config = source.join("selftests");
    fs::create_dir_all(&config)
        .and_then(|()| fs::write(config.join("config.h"), ""))
        .map_err(|e| format!("{}: {e}", config.display()))?;
    for name in ["recho", "zecho", "printenv", "xcase"] {
        let program = source.join("tests").join(name);
        if program.exists() {
            continue;
        }
        let mut gcc = Command::new("gcc");
        gcc.args(["-w", "-DHAVE_UNISTD_H", "-DHAVE_STDLIB_H", "-DHAVE_STRING_H"]);
        for directory in [config.as_path(), &source.join("include"), source] {
            gcc.arg("-I").arg(directory);
        }
        let done = gcc.arg(source.join("support").join(format!("{name}.c"))).arg("-o").arg(&program).status();
        if !done.is_ok_and(|status| status.success()) {
            return Err(format!("{name}.c of bash does not compile"));
        }
    }
    Ok(())
}

fn run(cage: &Cage, tests: &Path, name: &str) -> Result<Outcomes, String> {
    let here: PathBuf = cage.directory().join("bash/tests");
    let parent = here.parent().unwrap_or(&here);
    fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", here.display()))?;
    if !Command::new("cp").arg("-a").arg(tests).arg(&here).status().is_ok_and(|status| status.success()) {
        return Err(format!("{} cannot be copied", tests.display()));
    }
    let output = cage.directory().join("tmp/output");
    let path = std::env::var("PATH").unwrap_or_default();
    let environment = [
        format!("PATH=.:{path}"),
        format!("BASH_TSTOUT={}", output.display()),
        "THIS_SH=/bin/bash".into(),
        "BUILD_DIR=..".into(),
    ];
    let program: Vec<&str> = environment.iter().map(String::as_str).chain(["sh"]).collect();
    let run = cage.run_in(&here, &program, &[format!("./run-{name}")], SECONDS)?;
    // What differs from what is written down: nothing, or the same as bare. Numbers of processes and times do not matter.
    let said: String =
        without_numbers(&run.output).replace(&without_numbers(&cage.directory().display().to_string()), "HERE");
    let outcome = match run.code {
        None => "hung or died".into(),
        Some(_) if said.is_empty() => "ok".into(),
        Some(_) => said,
    };
    Ok([(name.to_string(), outcome)].into())
}

fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('0') => {}
            '0'..='9' => out.push('0'),
            c => out.push(c),
        }
    }
    out
}

#[test]
fn numbers_do_not_matter() {
    assert_eq!(without_numbers("1c13 > (25382): x7"), "0c0 > (0): x0");
}
