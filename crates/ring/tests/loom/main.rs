//! What two threads may do to each other, in every order that a few preemptions can make: `cargo xtask loom`.
//!
//! Loom's atomics cannot lie over shared memory, so the engine runs here in parts:
//!
//! | part | the engine's own code | restated |
//! | --- | --- | --- |
//! | [`lock`] | all of `src/lock.rs`, over [`sys`] | the futex, who is dead |
//! | [`frames`] | `ring::{forward_ring, unused_run}` over `memory::Frames` | `Pump::publish`, `tx::gather`: the order of their accesses |
//! | [`lending`] | all of `src/ring_socket/places.rs` of the library | the receiving side, the memory |
//! | [`waiters`] | `src/lock.rs` | `Pump::run` and `wait::announce`, step by step |
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod excludes;
mod frames;
mod lending;
#[allow(dead_code, reason = "what the engine needs of it besides")]
#[path = "../../src/lock.rs"]
mod lock;
mod sys;
mod waiters;

/// Runs a model in every order with up to `preemptions` of them; `LOOM_MAX_PREEMPTIONS` asks for another number.
fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    model.max_branches = 20_000;
    model.check(f);
}
