//! Ring files: a mounted directory with one file in it, whose `mmap` is the device's own memory.

mod mount;
mod nodes;
mod ring_file;
mod tree;

pub(crate) use mount::Mount;
pub use mount::clear_dead_mount;
pub(crate) use nodes::Nodes;
pub use ring_file::{Passthrough, RingFile};
pub(crate) use tree::Tree;
