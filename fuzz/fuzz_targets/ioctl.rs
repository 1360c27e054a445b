//! Whatever a client's ioctls, writes and reads say, and whatever it does to its rings meanwhile, its worker answers each once.
#![no_main]
#![allow(dead_code, unused_imports, reason = "of the daemon, the worker is called")]

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

mod network;

libfuzzer_sys::fuzz_target!(init: network::of_its_own(), |bytes: &[u8]| serve::fuzz::requests::run(bytes));
