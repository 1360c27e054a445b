//! The C library as it is installed: header, `pkg-config`, both ways of linking.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::daemon::Place;
use crate::support::repository;
use crate::wire::in_namespace;

/// Where it is installed, once. The directory stays until the tests end. `NLMMAP_PREFIX` names one made before, for machines without
/// cargo.
fn prefix() -> &'static Path {
    static GIVEN: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(given) = GIVEN.get_or_init(|| std::env::var_os("NLMMAP_PREFIX").map(PathBuf::from)) {
        return given;
    }
    static PREFIX: OnceLock<TempDir> = OnceLock::new();
    let directory = PREFIX.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--",
            "install",
            "--only-c",
            "--profile",
            "dev",
            "--prefix",
        ]);
        command.arg(directory.path()).current_dir(repository()).env("CARGO_TARGET_DIR", target);
        let output = command.output().expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        directory
    });
    directory.path()
}

/// A directory in which a program is, compiled by what `pkg-config` says.
fn compile(source: &str, linked: &str) -> TempDir {
    let prefix = prefix();
    let mut query = Command::new("pkg-config");
    query.args(["--cflags", "--libs"]).args((linked == "static").then_some("--static")).arg("nlmmap");
    let output = query
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .output()
        .expect("pkg-config (apt install pkg-config)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let flags = String::from_utf8(output.stdout).expect("text");
    let flags = if linked == "static" { flags.replace("-lnlmmap", "-l:libnlmmap.a") } else { flags };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(directory.path().join("program"));
    compiler.arg(repository().join(source)).args(flags.split_whitespace());
    assert!(compiler.status().expect("a C compiler").success(), "{source}, {linked}");
    directory
}

fn run(compiled: &TempDir) -> Command {
    let mut command = Command::new(compiled.path().join("program"));
    command.env("LD_LIBRARY_PATH", prefix().join("lib"));
    command
}

#[test]
fn the_c_example_judges_packets() {
    for linked in ["shared", "static"] {
        crate::examples::judges(&mut run(&compile("examples/c/nfqueue_verdict.c", linked)));
    }
}

#[test]
fn the_c_example_judges_packets_over_a_node() {
    let place = Place::new();
    let daemon = place.start();
    let program = compile("examples/c/nfqueue_verdict.c", "shared");
    crate::examples::judges_with(&mut run(&program), &[place.node().as_os_str()]);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn every_function_and_every_refusal_of_the_c_library() {
    let program = compile("tests/clients/ring_c.c", "shared");
    in_namespace(|| {
        let output = run(&program).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn the_manual_page_is_about_every_function() {
    let page = std::fs::read_to_string(prefix().join("share/man/man3/nlmmap.3")).unwrap();
    let header = std::fs::read_to_string(prefix().join("include/nlmmap.h")).unwrap();
    let mut functions = 0;
    for line in
        header.lines().filter(|line| line.ends_with(';') && line.contains('(') && !line.starts_with(['\t', ' ']))
    {
        let name = line.split('(').next().and_then(|head| head.rsplit([' ', '*']).next()).unwrap();
        assert!(page.matches(name).count() >= 2, "{name} is not in the synopsis of the manual page");
        functions += 1;
    }
    assert!(functions >= 16, "{functions}");
}
