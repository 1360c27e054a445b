//! The engine without a kernel: an endpoint over a mock socket, beside a plain model of the ABI.
//!
//! | module | promise |
//! | --- | --- |
//! | [`mock`], [`dump`], [`message`] | the kernel's half, and what it sends |
//! | [`bench`] | the endpoint, and the client's half |
//! | [`reference`], [`exact`] | every word that a client sees is the model's, after each of any moves |
//! | [`stream`] | nothing lost, nothing twice, in order, dumps and doorbells included |
//! | [`plain`] | no loss, and no word of one, that a socket without rings would not have had at the same pace |
//! | [`long`] | long messages, which are received apart from their frames |
//! | [`kick`] | what leaves by the TX ring, and what it answers |
//! | [`hostile`] | a client that writes anything anywhere at any time |
//! | [`cases`] | single cases, and regressions |
#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod cases;
mod dump;
mod exact;
mod hostile;
mod kick;
mod long;
mod message;
mod mock;
mod plain;
mod put;
mod reference;
mod stream;

use proptest::test_runner::Config;

/// One under miri, which takes a thousand times as long; each of its seeds makes another. More by `PROPTEST_CASES`.
fn config(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    Config {
        cases: if cfg!(miri) { 1 } else { asked.unwrap_or(cases) },
        failure_persistence: None,
        // What fails under miri is an access, which needs no shortest sequence.
        max_shrink_iters: if cfg!(miri) { 0 } else { 2_000 },
        ..Config::default()
    }
}

/// How many moves a sequence has: fewer under miri.
fn moves(most: usize) -> std::ops::Range<usize> {
    1..if cfg!(miri) { most / 10 } else { most }
}
