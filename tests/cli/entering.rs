//! `nlmmap run` becomes the program: same process, same end, same surroundings but for the library.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::support::{NLMMAP, clean, compile, directory, file, library, nlmmap, run, shows_library, texts};

#[test]
fn the_library_is_in_the_program() {
    let (status, maps, err) = texts(&run(&["cat", "/proc/self/maps"]).output().unwrap());
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(shows_library(&maps, library()), "{maps}");
}

#[test]
fn exit_status_and_signals_are_the_programs_own() {
    assert_eq!(run(&["sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).status().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn no_wrapper_process_is_left() {
    let child = run(&["sh", "-c", "echo $$"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(texts(&output).1.trim(), pid.to_string());
}

#[test]
fn arguments_go_through_as_they_are() {
    let output = run(&["printf", "%s|", "--strict", "", "a b", "--"]).output().unwrap();
    assert_eq!(texts(&output).1, "--strict||a b|--|");
    let odd = nlmmap().args(["run", "printf", "%s|", "--log"]).output().unwrap();
    assert_eq!(texts(&odd).1, "--log|", "options after the program are the program's");
}

#[test]
fn argument_zero_is_the_name_that_was_typed() {
    let (_, out, _) = texts(&run(&["cat", "/proc/self/cmdline"]).output().unwrap());
    assert_eq!(out, "cat\0/proc/self/cmdline\0");
}

#[test]
fn settings_are_set_when_asked_for_and_left_alone_when_not() {
    let show = "echo \"${NLMMAP_STRICT-unset} ${NLMMAP_LOG-unset}\"";
    let with = |options: &[&str], log: Option<&str>| {
        let mut command = nlmmap();
        if let Some(log) = log {
            command.env("NLMMAP_LOG", log);
        }
        let output = command.arg("run").args(options).args(["--", "sh", "-c", show]).output().unwrap();
        texts(&output).1.trim().to_owned()
    };
    assert_eq!(with(&[], None), "unset unset");
    assert_eq!(with(&["--strict", "--log", "error"], None), "1 error");
    assert_eq!(with(&["--log", "error"], Some("warn")), "unset error");
    assert_eq!(with(&[], Some("error")), "unset error");
}

#[test]
fn other_preloads_are_kept_and_stay_in_front() {
    let dir = directory();
    let source = "#include <unistd.h>\n__attribute__((constructor)) static void here(void)\n\
                  { if (write(2, \"other\\n\", 6) < 0) _exit(9); }\n";
    let other = compile(&dir, "other.so", source, &["-shared", "-fPIC"]);
    let value = format!(" {} ", other.display());
    let program = compile(
        &dir,
        "show",
        "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return puts(getenv(\"LD_PRELOAD\")) < 0; }\n",
        &[],
    );
    // Only the program itself gets the other preload's greeting counted: nlmmap is a program too, so it greets first.
    let output = run(&[program.to_str().unwrap()]).env("LD_PRELOAD", value).output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!(status, Some(0), "{err}");
    assert_eq!(out.trim(), format!("{}:{}", other.display(), library().display()));
    assert_eq!(err.matches("other\n").count(), 2, "{err}");
}

#[test]
fn running_inside_itself_loads_the_library_once() {
    let output = run(&[NLMMAP, "run", "--", "sh", "-c", "echo $LD_PRELOAD"]).output().unwrap();
    assert_eq!(texts(&output).1.trim(), library().to_str().unwrap());
}

#[test]
fn sigpipe_is_left_as_it_was() {
    let ignored = |how: &str| {
        let script = format!("{how} exec {NLMMAP} run -- grep SigIgn /proc/self/status");
        let mut command = std::process::Command::new("sh");
        clean(&mut command).env("NLMMAP_PRELOAD", library());
        let (_, out, err) = texts(&command.args(["-c", &script]).output().unwrap());
        let mask = out.split_whitespace().nth(1).unwrap_or_else(|| panic!("{err}")).to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & 1 << (libc::SIGPIPE - 1) != 0
    };
    assert!(!ignored(""));
    assert!(ignored("trap '' PIPE;"));
}

#[test]
fn a_script_without_a_first_line_is_run_by_the_shell() {
    let dir = directory();
    let script = file(&dir, "plain", "echo plain $0 $1; cat /proc/$$/maps >&2\n", 0o755);
    let (status, out, err) = texts(&run(&[script.to_str().unwrap(), "x"]).output().unwrap());
    assert_eq!((status, out), (Some(0), format!("plain {} x\n", script.display())));
    assert!(shows_library(&err, library()), "{err}");
}

#[test]
fn check_judges_and_runs_nothing() {
    let dir = directory();
    let script = file(&dir, "script", "#!/bin/sh\necho ran\n", 0o755);
    let output = nlmmap().args(["run", "--check", "--"]).arg(&script).output().unwrap();
    let (status, out, err) = texts(&output);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.starts_with(&format!("{} can be entered\n", script.display())), "{out}");
    assert!(out.contains("  program  /bin/sh ("), "{out}");
    assert!(out.contains(&format!("  library  {}\n", library().display())), "{out}");
    assert!(!out.contains("ran"));
}
