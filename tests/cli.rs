//! The command line, from outside: what `nlmmap` answers, starts, refuses and reports.
//!
//! The programs that are run are compiled here or are the system's own; the library is the real one.

#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/entering.rs"]
mod entering;
#[path = "cli/finding.rs"]
mod finding;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/secure.rs"]
mod secure;
#[path = "cli/support.rs"]
mod support;
