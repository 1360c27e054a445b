//! Any sequence of the calls that the preload library stands in for, on sockets with rings and on others, by a client that writes
//! anything into its rings. Each call answers as its manual says: what it returns lies in the bounds of what it was given, not a
//! byte beyond is touched, `errno` is set by failures alone. In the end nothing is left.
#![no_main]

mod client;
mod network;

/// In order, as the library of a program would find it.
fn begin() {
    network::of_its_own();
    nlmmap_preload::shown::configure(Some(b"off"), None);
}

libfuzzer_sys::fuzz_target!(init: begin(), |bytes: &[u8]| client::run(bytes));
