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
//! | [`notes`] | all of `src/waits.rs` | `File::answers`, `Engine::look_ahead`, `Open::tell`, epoll |
//! | [`burial`] | all of the preload's `users.rs` | `fdtable::{borrow, allocate, insert, remove}`: the order of their steps |
//! | [`handover`] | all of the preload's `duty.rs` | `guard` and `watch` around it, epoll |
//! | [`quiesce`] | `duty::Using` | the table's slot, the number |
//! | [`settle`] | all of the preload's `mark.rs`, `Users::after_fork` | what was copied of a parent that was stopped at any step |
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "tests")]

/// What the preload's modules are made of.
mod atomic {
    pub use crate::words::{AtomicI32, AtomicU32};
    pub use loom::sync::atomic::fence;
    pub use loom::thread::yield_now as spin_loop;
    /// Counters, whose values nothing is published by: in the order of the model's steps.
    pub use std::sync::atomic::{AtomicU64, Ordering};
}
mod burial;
#[allow(dead_code, reason = "what the preload needs of it besides")]
#[path = "../../../preload/src/duty.rs"]
mod duty;
mod excludes;
mod frames;
mod handover;
mod lending;
#[allow(dead_code, reason = "what the engine needs of it besides")]
#[path = "../../src/lock.rs"]
mod lock;
#[allow(dead_code, reason = "what the preload needs of it besides")]
#[path = "../../../preload/src/mark.rs"]
mod mark;
mod notes;
mod quiesce;
mod settle;
mod sys;
#[allow(dead_code, reason = "what the preload needs of it besides")]
#[path = "../../../preload/src/users.rs"]
mod users;
mod waiters;
#[allow(dead_code, reason = "what the daemon needs of it besides")]
#[path = "../../src/waits.rs"]
mod waits;
mod words;

/// Runs a model in every order with up to `preemptions` of them; `LOOM_MAX_PREEMPTIONS` asks for another number.
fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    model.max_branches = 20_000;
    model.check(f);
}
