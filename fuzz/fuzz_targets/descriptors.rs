//! Numbers that come, go and change hands: the model of the preload library's table, its choices made by the fuzzer.
#![no_main]

mod network;

libfuzzer_sys::fuzz_target!(init: network::of_its_own(), |bytes: &[u8]| nlmmap_preload::fdtable::tests::fuzz(bytes));
