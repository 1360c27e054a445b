//! Programs that no preload can enter: `nlmmap run --via supervisor`.
//!
//! The clients are those of the preload tests, linked statically, and all their expectations hold. Which of `tests/clients` are not
//! here, and why, is in `tests/supervisor/clients.rs`.

mod support;

#[allow(dead_code, reason = "shared with the conformance tests, which also rewrite their list")]
#[path = "conformance/differences.rs"]
mod differences;
#[path = "conformance/kernel.rs"]
mod kernel;
#[path = "conformance/lines.rs"]
mod lines;

#[path = "supervisor/clients.rs"]
mod clients;
#[path = "supervisor/command.rs"]
mod command;
#[path = "supervisor/conformance.rs"]
mod conformance;
#[path = "supervisor/ends.rs"]
mod ends;
#[path = "supervisor/faults.rs"]
mod faults;
#[path = "supervisor/go.rs"]
mod go;
#[path = "supervisor/refusals.rs"]
mod refusals;
#[path = "supervisor/rust.rs"]
mod rust;
