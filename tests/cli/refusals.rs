//! Programs that no preload can enter: each is refused before it runs, with its cause and a cure.

use std::path::Path;

use crate::support::{compile, directory, file, library, nlmmap, refused, run};

const MAIN: &str = "int main(void) { return 0; }\n";

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The fixed head of an ELF executable of another machine: what is judged before anything else.
fn foreign(class: u8, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}

#[test]
fn what_is_not_there_gives_127() {
    refused(&mut run(&["nlmmap-no-such-program"]), 127, "nlmmap-no-such-program: not found", "install");
    refused(&mut run(&["/no/such/program"]), 127, "/no/such/program: not found", "check the name");
    refused(run(&["true"]).env("PATH", "/nowhere"), 127, "true: not found", "check the name");
}

#[test]
fn what_cannot_be_run_gives_126() {
    let dir = directory();
    let data = file(&dir, "data", "x", 0o644);
    let cause = format!("{}: no permission to execute it", text(&data));
    refused(&mut run(&[&text(&data)]), 126, &cause, &format!("chmod +x {}", text(&data)));
    refused(&mut run(&["/"]), 126, "/: not a regular file", "name a program");
    let binary = file(&dir, "binary", b"\x00\x01\x02", 0o755);
    let cause = format!("{}: neither an ELF program nor a script", text(&binary));
    refused(&mut run(&[&text(&binary)]), 126, &cause, "#!");
}

#[test]
fn a_file_without_permission_hides_none_further_on_in_the_path() {
    let (first, second) = (directory(), directory());
    file(&first, "tool", "echo first\n", 0o644);
    let path = format!("{}:{}", text(first.path()), text(second.path()));
    refused(run(&["tool"]).env("PATH", &path), 126, "tool: no permission to execute it", "chmod +x");
    file(&second, "tool", "echo second\n", 0o755);
    let output = run(&["tool"]).env("PATH", &path).output().unwrap();
    assert_eq!(output.stdout, b"second\n");
}

/// Without the way that is left to it.
fn by_preload(program: &str) -> std::process::Command {
    let mut command = nlmmap();
    command.args(["run", "--via", "preload", "--", program]);
    command
}

#[test]
fn static_programs() {
    let dir = directory();
    for (name, flags) in [("plain", &["-static"][..]), ("pie", &["-static-pie"])] {
        let program = text(&compile(&dir, name, MAIN, flags));
        let cause = format!("{program}: statically linked: no dynamic linker runs that would load the preload library");
        refused(&mut by_preload(&program), 126, &cause, "link the program dynamically");
        refused(&mut by_preload(&program), 126, &cause, "--via supervisor");
        refused(nlmmap().args(["run", "--via", "preload", "--check", "--", &program]), 126, &cause, "nlmmap serve");
    }
}

#[test]
fn static_go_programs_are_told_apart() {
    let dir = directory();
    let source = "__attribute__((section(\".go.buildinfo\"))) const char info[16] = \"\\xff Go buildinf:\";\n\
                  int main(void) { return info[0] == 0; }\n";
    let program = text(&compile(&dir, "go", source, &["-static"]));
    let cause = format!("{program}: a statically linked go program: it calls the kernel without a C library");
    refused(&mut by_preload(&program), 126, &cause, "cgo");
}

#[test]
fn other_machines() {
    let dir = directory();
    let own = match std::env::consts::ARCH {
        "powerpc64" => "ppc64",
        arch => arch,
    };
    let cases =
        [(1, 3, "i386"), (2, 183, "aarch64"), (2, 62, "x86_64"), (1, 62, "x32"), (2, 9999, "64-bit machine 9999")];
    for (class, machine, name) in cases.into_iter().filter(|(_, _, name)| *name != own) {
        let program = text(&file(&dir, "foreign", foreign(class, machine), 0o755));
        let cause = format!("{program}: made for {name}, and the preload library for {own}");
        refused(&mut run(&[&program]), 126, &cause, &format!("use a build of the program for {own}"));
    }
}

#[test]
fn damaged_files() {
    let dir = directory();
    let whole = std::fs::read("/proc/self/exe").unwrap();
    let program = text(&file(&dir, "cut", &whole[..40], 0o755));
    let output = run(&[&program]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(126));
    assert!(err.starts_with(&format!("nlmmap: {program}: damaged ELF file: ")), "{err}");
}

#[test]
fn a_dynamic_linker_that_is_not_installed() {
    let dir = directory();
    let program = text(&compile(&dir, "far", MAIN, &["-Wl,--dynamic-linker=/nowhere/ld-musl-far.so.1"]));
    let cause = format!("{program}: its dynamic linker /nowhere/ld-musl-far.so.1: not found");
    refused(&mut run(&[&program]), 126, &cause, "install musl");
}

#[test]
fn the_library_is_not_a_program() {
    let dir = directory();
    let copy = file(&dir, "copy.so", std::fs::read(library()).unwrap(), 0o755);
    let cause = format!("{}: the preload library itself, not a program", text(&copy));
    refused(&mut run(&[&text(&copy)]), 126, &cause, "name the program");
}

#[test]
fn scripts_are_judged_by_the_program_that_runs_them() {
    let dir = directory();
    let last = text(&compile(&dir, "last", MAIN, &["-static"]));
    let inner = text(&file(&dir, "inner", format!("#!{last} -x\n"), 0o755));
    let outer = text(&file(&dir, "outer", format!("#! {inner}\n"), 0o755));
    let cause = format!("{last}: statically linked: no dynamic linker runs that would load the preload library");
    refused(&mut by_preload(&outer), 126, &cause, "dynamically");

    let by_env = text(&file(&dir, "by_env", "#!/usr/bin/env last\n", 0o755));
    let path = format!("{}:/usr/bin:/bin", text(dir.path()));
    refused(by_preload(&by_env).env("PATH", path), 126, &cause, "dynamically");
}

#[test]
fn scripts_that_lead_nowhere() {
    let dir = directory();
    let orphan = text(&file(&dir, "orphan", "#!/nowhere/shell\n", 0o755));
    let cause = format!("{orphan}: its interpreter /nowhere/shell: not found");
    refused(&mut run(&[&orphan]), 126, &cause, "install");
    let endless = dir.path().join("endless");
    let endless = text(&file(&dir, "endless", format!("#!{}\n", text(&endless)), 0o755));
    let cause = format!("{endless}: a script of scripts, deeper than the kernel follows");
    refused(&mut run(&[&endless]), 126, &cause, "no script");
}

#[test]
fn the_bound_on_scripts_is_the_kernels() {
    let dir = directory();
    let mut next = "/bin/sh".to_owned();
    for depth in 1..=6 {
        let script = file(&dir, &format!("s{depth}"), format!("#!{next}\nexit 0\n"), 0o755);
        next = text(&script);
        let bare = std::process::Command::new(&script).status().map(|s| s.success());
        let served = run(&[&next]).output().unwrap().status.success();
        assert_eq!(served, matches!(bare, Ok(true)), "{depth} scripts: without nlmmap {bare:?}");
    }
}
