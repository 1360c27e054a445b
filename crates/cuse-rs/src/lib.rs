//! CUSE in pure Rust.
