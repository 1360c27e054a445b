//! The greeting, byte by byte.

use std::os::fd::OwnedFd;

use super::*;
use crate::testing::{hex, request, sent, socket_pair};

fn greet(kernel: &OwnedFd, opcode: u32, body: &str) {
    rustix::io::write(kernel, &request(opcode, 2, 0, &hex(body))).unwrap();
}

#[test]
#[cfg(target_endian = "little")]
fn handshake() {
    let (daemon, kernel) = socket_pair();
    greet(&kernel, 4096, "07000000 2a000000 00000000 01000000");
    let cuse = Cuse::new("nl").number(240, 3).max_read(1).max_write(u32::MAX);
    cuse.handshake(daemon).unwrap();
    let spare = "00000000".repeat(10);
    // Our minor version, the smaller; no flags: restricted ioctls; limits; number; the name.
    let reply = hex(&format!(
        "60000000 00000000 0200000000000000
         07000000 28000000 00000000 00000000 00100000 00000200 f0000000 03000000 {spare}
         4445564e414d453d6e6c00"
    ));
    let mut reply = reply;
    let len = reply.len() as u32;
    reply[..4].copy_from_slice(&len.to_le_bytes());
    assert_eq!(sent(&kernel).unwrap(), reply);
    assert_eq!(len, 16 + 72 + 11);
}

#[test]
#[cfg(target_endian = "little")]
fn the_smaller_minor_version_is_spoken() {
    let (daemon, kernel) = socket_pair();
    greet(&kernel, 4096, "07000000 1f000000 00000000 01000000");
    Cuse::new("nl").handshake(daemon).unwrap();
    assert_eq!(sent(&kernel).unwrap()[20..24], [31, 0, 0, 0]);
}

#[test]
#[cfg(target_endian = "little")]
fn greetings_that_cannot_be_answered() {
    for version in ["07000000 1e000000", "06000000 28000000", "08000000 00000000"] {
        let (daemon, kernel) = socket_pair();
        greet(&kernel, 4096, &format!("{version} 00000000 01000000"));
        let error = Cuse::new("nl").handshake(daemon).err().unwrap();
        assert!(matches!(error, Error::Version { .. }), "{error}");
        assert!(error.to_string().contains("Linux 5.4"), "{error}");
        // EPROTO.
        assert_eq!(sent(&kernel).unwrap(), hex("10000000 b9ffffff 0200000000000000"));
    }
    let (daemon, kernel) = socket_pair();
    greet(&kernel, 14, "00000000 00000000");
    let error = Cuse::new("nl").handshake(daemon).err().unwrap();
    assert_eq!(error.to_string(), "the kernel did not greet as expected: operation 14 came first");
    let (daemon, kernel) = socket_pair();
    rustix::io::write(&kernel, b"short").unwrap();
    let error = Cuse::new("nl").handshake(daemon).err().unwrap();
    assert!(error.to_string().contains("5 bytes are too few"), "{error}");
    let (daemon, kernel) = socket_pair();
    drop(kernel);
    let error = Cuse::new("nl").handshake(daemon).err().unwrap();
    assert!(error.to_string().contains("the connection ended"), "{error}");
}
