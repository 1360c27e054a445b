//! What the modules are made of that are tried in models too (`crates/ring/tests/loom`): there these names are the model's own.

pub use core::hint::spin_loop;
pub use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
