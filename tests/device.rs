//! The daemon and its ring file, on the running kernel: `nlmmap serve`, clients in C and Python, `nlmmap stat`.
//!
//! `NLMMAP_NODE=cuse` runs the same over a character device, where the kernel has CUSE.

mod support;

#[path = "device/afternoon.rs"]
mod afternoon;
#[path = "device/attacks.rs"]
mod attacks;
#[path = "device/both.rs"]
mod both;
#[path = "device/broken.rs"]
mod broken;
#[path = "device/cage.rs"]
mod cage;
#[path = "device/capture.rs"]
mod capture;
#[path = "device/charging.rs"]
mod charging;
#[path = "device/clients.rs"]
mod clients;
#[path = "device/daemon.rs"]
mod daemon;
#[path = "device/deputy.rs"]
mod deputy;
#[path = "device/endurance.rs"]
mod endurance;
#[path = "device/fairness.rs"]
mod fairness;
#[path = "device/faults.rs"]
mod faults;
#[path = "device/library.rs"]
mod library;
#[path = "device/lifecycle.rs"]
mod lifecycle;
#[path = "device/metrics.rs"]
mod metrics;
#[path = "device/policy.rs"]
mod policy;
#[path = "device/promises.rs"]
mod promises;
#[path = "device/receive.rs"]
mod receive;
#[path = "device/restart.rs"]
mod restart;
#[path = "device/rules.rs"]
mod rules;
#[path = "device/shown.rs"]
mod shown;
#[path = "device/startup.rs"]
mod startup;
#[path = "device/table.rs"]
mod table;
#[path = "device/top.rs"]
mod top;
#[path = "device/waiters.rs"]
mod waiters;
#[path = "device/walkthrough.rs"]
mod walkthrough;
#[path = "device/workers.rs"]
mod workers;
