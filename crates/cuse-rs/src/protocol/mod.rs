//! The bytes between kernel and daemon: `include/uapi/linux/fuse.h`, as far as a character device
//! and a one-file directory need it.
//!
//! A request is an [`abi::InHeader`] and a body that the opcode tells; a reply is an
//! [`abi::OutHeader`] and a body. One `read` gives one whole request, one `writev` takes one whole
//! reply; `len` in the header is the length of the message. Numbers are in the machine's byte order.
//! A notification is a reply whose `unique` is 0 and whose `error` is the notification's code.

pub mod abi;
pub mod opcode;
pub mod request;

pub use request::{Operation, ParseError, Request};
