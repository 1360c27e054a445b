//! The engine beside a plain model of the ABI: the model of `crates/ring/tests/engine`, its choices made by the fuzzer.
#![no_main]
#![allow(dead_code, unused_imports, reason = "one model of several, which share their tools")]

include!("engine.rs");

#[path = "../../crates/ring/tests/engine/exact.rs"]
mod exact;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exact::fuzz(&mut Source(bytes)));
