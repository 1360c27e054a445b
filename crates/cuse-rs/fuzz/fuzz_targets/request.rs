//! Any bytes are a request, or are refused; what is taken off them lies within them.
#![no_main]

use cuse_rs::protocol::{Operation, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::parse(bytes) else { return };
    match request.operation {
        Operation::Write(write, data) => assert_eq!(data.len(), write.size as usize),
        Operation::Ioctl(ioctl, data) => assert_eq!(data.len(), ioctl.in_size as usize),
        Operation::Lookup { name } => assert!(!name.contains(&0)),
        Operation::BatchForget(list) => assert!(list.iter().count() * 16 <= bytes.len()),
        _ => {}
    }
});
