//! Where the library is looked for, and what passes for it; arguments and help.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{NLMMAP, clean, compile, copy, directory, library, nlmmap, refused, shows_library, texts};

/// A copy of the command in `bin`, without a library.
fn installed(dir: &TempDir) -> Command {
    let bin = dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    copy(Path::new(NLMMAP), &bin.join("nlmmap"), 0o755);
    let mut command = Command::new(bin.join("nlmmap"));
    clean(&mut command);
    command
}

fn found(command: &mut Command, at: &Path) {
    let (status, maps, err) = texts(&command.args(["run", "--", "cat", "/proc/self/maps"]).output().unwrap());
    assert_eq!(status, Some(0), "{err}");
    assert!(shows_library(&maps, &at.canonicalize().unwrap()), "{maps}");
}

#[test]
fn the_library_is_found_beside_the_command_and_where_it_is_installed() {
    let dir = directory();
    let mut command = installed(&dir);
    let (beside, lib) = (dir.path().join("bin/libnlmmap_preload.so"), dir.path().join("lib/nlmmap"));
    fs::create_dir_all(&lib).unwrap();
    copy(library(), &lib.join("libnlmmap_preload.so"), 0o755);
    found(&mut command, &lib.join("libnlmmap_preload.so"));
    copy(library(), &beside, 0o755);
    found(&mut installed(&dir), &beside);
    found(installed(&dir).env("NLMMAP_PRELOAD", library()), library());
}

#[test]
fn a_library_that_is_nowhere_is_said_to_be_so() {
    let dir = directory();
    let mut command = installed(&dir);
    let root = dir.path().canonicalize().unwrap();
    let cause = format!(
        "the preload library libnlmmap_preload.so is not there (looked in {0}/bin/libnlmmap_preload.so and \
         {0}/lib/nlmmap/libnlmmap_preload.so)",
        root.display()
    );
    refused(command.args(["run", "--", "true"]), 126, &cause, "cargo build --release");
}

#[test]
fn a_named_library_is_used_or_refused_and_never_replaced() {
    let cause = "the preload library /nowhere/x.so (from NLMMAP_PRELOAD): No such file or directory (os error 2)";
    let mut command = nlmmap();
    refused(command.env("NLMMAP_PRELOAD", "/nowhere/x.so").args(["run", "--", "true"]), 126, cause, "unset");
}

#[test]
fn something_else_does_not_pass_for_the_library() {
    let dir = directory();
    let other = compile(&dir, "other.so", "int other;\n", &["-shared", "-fPIC"]);
    let later = compile(&dir, "later.so", "unsigned int nlmmap_preload_abi = 9;\n", &["-shared", "-fPIC"]);
    let with = |path: &Path| {
        let mut command = nlmmap();
        command.env("NLMMAP_PRELOAD", path).args(["run", "--", "true"]);
        command
    };
    let name = |path: &Path| path.canonicalize().unwrap().display().to_string();
    let foreign = format!("{} is not nlmmap's preload library: it does not export nlmmap_preload_abi", name(&other));
    refused(&mut with(&other), 126, &foreign, "NLMMAP_PRELOAD");
    let version = format!("the preload library {} has abi 9, this program needs 1", name(&later));
    refused(&mut with(&later), 126, &version, "same release");
    let text = dir.path().join("other.so.c");
    let no_elf = format!("{} is not nlmmap's preload library: not an ELF file", name(&text));
    refused(&mut with(&text), 126, &no_elf, "NLMMAP_PRELOAD");
}

#[test]
fn a_path_that_ld_preload_cannot_express_is_refused() {
    let dir = directory();
    let spaced = dir.path().join("a b.so");
    copy(library(), &spaced, 0o755);
    let cause = format!(
        "the preload library's path {} holds a blank or a colon, which LD_PRELOAD cannot express",
        spaced.canonicalize().unwrap().display()
    );
    refused(nlmmap().env("NLMMAP_PRELOAD", &spaced).args(["run", "--", "true"]), 126, &cause, "without them");
}

#[test]
fn wrong_arguments_give_status_2() {
    for arguments in [&["run"][..], &["run", "--log", "loud", "--", "true"], &["walk"], &[]] {
        let (status, out, err) = texts(&nlmmap().args(arguments).output().unwrap());
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains("--help") || err.contains("Usage: nlmmap"), "{err}");
    }
}

#[test]
fn every_command_teaches() {
    for command in [&["--help"][..], &["run", "--help"], &["doctor", "--help"], &["demo", "--help"]] {
        let (status, out, err) = texts(&nlmmap().args(command).output().unwrap());
        assert_eq!((status, err.as_str()), (Some(0), ""), "{command:?}");
        assert!(out.contains("Examples:\n  nlmmap "), "{out}");
        assert!(command.len() == 1 || out.contains("\nExit status: "), "{out}");
        assert!(out.lines().all(|line| line.len() <= 100), "{out}");
    }
    let (_, out, _) = texts(&nlmmap().arg("--version").output().unwrap());
    assert_eq!(out, format!("nlmmap {}\n", env!("CARGO_PKG_VERSION")));
}
