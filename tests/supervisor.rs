//! Programs that no preload can enter: `nlmmap run --via supervisor`.
//!
//! The clients are those of the preload tests, linked statically, and all their expectations hold. Which of `tests/clients` are not
//! here, and why, is in `tests/supervisor/clients.rs`.

mod support;

#[path = "supervisor/clients.rs"]
mod clients;
#[path = "supervisor/command.rs"]
mod command;
#[path = "supervisor/ends.rs"]
mod ends;
#[path = "supervisor/go.rs"]
mod go;
#[path = "supervisor/refusals.rs"]
mod refusals;
#[path = "supervisor/rust.rs"]
mod rust;
