//! Everything that touches a client's netlink socket: in processes that have no more than the client has.
//!
//! | module | promise |
//! | --- | --- |
//! | [`wire`] | packets between front and workers, believed by neither |
//! | [`spawner`] | workers are made by a process without threads |
//! | [`enter`] | a worker is its client, with less |
//! | [`engine`] | one thread, many open files, no request before another for long |
//! | [`open`] | one open file: socket, rings |
//! | [`pass`] | work that lasts waits for its turn among all workers, ... |
//! | [`processor`] | ... and lets others go first at the processor |
//! | [`calls`] | what a socket call needs beside the rings |
//! | [`ahead`] | full rings that are filled again before their clients ask |
//! | [`screen`], [`descriptors`] | no message names a descriptor of a worker |
//! | [`judged`] | messages that go to the front before they go to the kernel, or come back from it |
//! | [`sifted`] | of what arrives by a grant, what its rule names |
//! | [`payer`] | ring memory is charged to the client's control group |
//! | [`lent`] | in the grantor: sockets of clients, for what policy grants |

mod ahead;
mod calls;
mod descriptors;
mod engine;
pub mod enter;
mod judged;
mod lent;
pub mod open;
pub mod pass;
mod payer;
pub mod processor;
pub mod screen;
mod sifted;
pub mod spawner;
pub mod wire;

#[cfg(fuzzing)]
pub use engine::Engine;
pub use engine::move_up;
