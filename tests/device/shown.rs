//! The client `shown` of the library's tests, whose sockets are the node's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::daemon::{NLMMAP, Place};
use crate::support::{Build, compile, preload};

/// The client `shown`, whose sockets are the node's.
pub fn shown(place: &Place, words: &[&str]) -> Child {
    let mut command = Command::new(NLMMAP);
    command.args(["run", "--device"]).arg(place.node()).arg("--").arg(compile("shown", Build::Plain)).args(words);
    command.env("NLMMAP_PRELOAD", preload()).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("it starts")
}

pub fn line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it speaks");
    line
}

pub fn ready(place: &Place, words: &[&str]) -> Child {
    let mut child = shown(place, words);
    assert_eq!(line(&mut child), "ready\n");
    child
}

pub fn go(child: &mut Child) {
    child.stdin.as_mut().expect("a pipe").write_all(b"g").expect("it reads");
}

pub fn stop(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}
