//! Any text is a configuration, or refused with the line that is wrong.
#![no_main]
#![allow(dead_code, unused_imports, reason = "of the daemon, what reads its configuration is called")]

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

libfuzzer_sys::fuzz_target!(|text: &str| serve::config::fuzz(text));
