//! What the engine loses, repeats or puts out of order: the model of `crates/ring/tests/engine`, its choices made by the fuzzer.
#![no_main]
#![allow(dead_code, unused_imports, reason = "one model of several, which share their tools")]

include!("engine.rs");

#[path = "../../crates/ring/tests/engine/stream.rs"]
mod stream;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stream::fuzz(&mut Source(bytes)));
