//! What the process tests share: client programs are compiled, run in network namespaces of their own with and
//! without the preload library, bounded in time, and judged by their exit status.
//!
//! A client's exit status (tests/clients/ring.h): 0 held, 1 failed, 3 refused with ENOPROTOOPT, 77 the kernel lacks
//! something.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]

mod client;
mod compile;
mod copy;
mod names;
mod outcome;
mod paths;
pub mod terminal;
pub mod tshark;

pub use client::{Client, Mode, client, program, script};
pub use compile::{Build, compile, compile_file};
pub use copy::copy;
pub use names::names;
pub use outcome::{Outcome, modest, patient, run, say};
pub use paths::{clients_dir, preload, repository, scratch};

/// Network namespaces are made by root alone.
pub fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
}
