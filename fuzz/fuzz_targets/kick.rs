//! What leaves by the TX ring: the model of `crates/ring/tests/engine`, its choices made by the fuzzer.
#![no_main]
#![allow(dead_code, unused_imports, reason = "one model of several, which share their tools")]

include!("engine.rs");

#[path = "../../crates/ring/tests/engine/kick.rs"]
mod kick;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kick::fuzz(&mut Source(bytes)));
