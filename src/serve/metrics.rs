//! `/metrics`, where the configuration says so: endpoints as Prometheus reads them, over a local socket or a loopback port.
//!
//! | module | promise |
//! | --- | --- |
//! | [`listen`] | nobody beyond this machine can be served, whatever is configured |
//! | [`http`] | what a request is answered |
//! | [`server`] | one thread, and a bound for everything that a client can make it hold or do |

#[cfg(not(fuzzing))]
mod http;
#[cfg(fuzzing)]
pub mod http;
mod listen;
mod server;

pub use listen::{Listener, Place, Wanted};
pub use server::Server;
