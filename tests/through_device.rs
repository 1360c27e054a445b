//! Programs of the socket interface through the device: `nlmmap run --device PATH`.
//!
//! The clients are those of the preload tests, and all their expectations hold.

mod support;

#[allow(dead_code, reason = "shared with the conformance tests, which also rewrite their list")]
#[path = "conformance/differences.rs"]
mod differences;
#[path = "conformance/kernel.rs"]
mod kernel;
#[path = "conformance/lines.rs"]
mod lines;

#[path = "through_device/clients.rs"]
mod clients;
#[path = "through_device/command.rs"]
mod command;
#[path = "through_device/conformance.rs"]
mod conformance;
#[allow(dead_code, reason = "shared with device.rs, which uses the rest")]
#[path = "device/daemon.rs"]
mod daemon;
#[path = "through_device/harness.rs"]
mod harness;
