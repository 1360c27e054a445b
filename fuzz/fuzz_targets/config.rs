//! Any text is a policy, or refused with the line that is wrong.
#![no_main]
#![allow(dead_code, reason = "of policy, what reads is called")]

#[path = "../../src/policy/mod.rs"]
mod policy;

use policy::Policy;
use policy::config::{Raw, System};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(raw) = toml::from_str::<Raw>(text) else { return };
    if let Err(error) = Policy::new(&raw, text, &System) {
        assert!((1..=text.lines().count().max(1) + 1).contains(&error.line), "line {}", error.line);
    }
});
