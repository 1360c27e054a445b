//! The C library, linked both ways.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Place, passes};
use crate::support::repository;

/// Builds the library, and gives the directory it is in. `NLMMAP_LIBRARY` names one built before, for machines without cargo.
pub fn library() -> PathBuf {
    if let Some(built) = std::env::var_os("NLMMAP_LIBRARY") {
        return PathBuf::from(built);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--package", "nlmmap-c", "--target-dir"]).arg(target);
    assert!(command.current_dir(repository()).status().expect("cargo starts").success());
    target.join("debug")
}

#[test]
fn four_calls_from_a_path_to_mapped_rings() {
    let place = Place::new();
    let daemon = place.start();
    let library = library();
    let source = repository().join("tests/clients/device_lib.c");
    for (name, link) in [("shared", library.join("libnlmmap.so")), ("static", library.join("libnlmmap.a"))] {
        let program = place.path(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I"]).arg(repository().join("include"));
        compiler.arg("-o").arg(&program).arg(&source).arg(&link).args(["-lpthread", "-ldl", "-lm"]);
        assert!(compiler.status().expect("a C compiler (apt install gcc libc6-dev)").success(), "{name}");
        let mut client = Command::new(&program);
        client.arg(place.node()).env("LD_LIBRARY_PATH", &library);
        let out = passes(&mut client, &daemon);
        assert!(out.ends_with(" links\n"), "{out}");
    }
    daemon.wait_for_opens(0);
    daemon.stop();
}
