//! `RingSocket` over real netlink families in network namespaces of its own.

#[path = "device/daemon.rs"]
#[allow(dead_code, reason = "shared with the tests of the device")]
mod daemon;
mod support;

#[path = "ring_socket/allocation.rs"]
mod allocation;
#[path = "ring_socket/bad_input.rs"]
mod bad_input;
#[path = "ring_socket/c.rs"]
mod c;
#[path = "ring_socket/examples.rs"]
mod examples;
#[path = "ring_socket/lending.rs"]
mod lending;
#[path = "ring_socket/node.rs"]
mod node;
#[path = "ring_socket/queue.rs"]
mod queue;
#[path = "ring_socket/route.rs"]
mod route;
#[path = "ring_socket/wire.rs"]
mod wire;
