//! What others tell the daemon and the command beside requests: `/metrics`, packets, answers, pages, copies.
#![no_main]
#![allow(dead_code, unused_imports, reason = "of the daemon, what reads is called")]

#[path = "../../src/policy/mod.rs"]
mod policy;
#[path = "../../src/see/mod.rs"]
mod see;
#[path = "../../src/serve/mod.rs"]
mod serve;
#[path = "../../src/sigpipe.rs"]
mod sigpipe;
#[path = "../../src/sys.rs"]
mod sys;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| serve::fuzz::told::run(bytes));
