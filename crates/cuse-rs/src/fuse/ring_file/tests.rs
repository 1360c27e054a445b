//! The greeting, byte by byte.

use super::*;
use crate::testing::{hex, request, sent, socket_pair};

/// Greets with the version and flags, answers the handshake's result and its reply's bytes.
#[cfg(target_endian = "little")]
fn greet(file: &RingFile, minor: u8, flags: u32, flags2: u32) -> (Result<bool, Error>, Option<Vec<u8>>) {
    let (daemon, kernel) = socket_pair();
    let mut body = hex(&format!("07000000 {minor:02x}000000 00000200"));
    body.extend(flags.to_le_bytes());
    body.extend(flags2.to_le_bytes());
    body.resize(64, 0);
    rustix::io::write(&kernel, &request(26, 2, 0, &body)).unwrap();
    let result = file.handshake(daemon).map(|(_, passthrough)| passthrough);
    (result, sent(&kernel))
}

#[test]
#[cfg(target_endian = "little")]
fn handshake() {
    let file = RingFile::new("/nowhere", "ring").max_write(64 * 1024);
    let (result, reply) = greet(&file, 42, u32::MAX, u32::MAX);
    assert!(result.unwrap());
    let unused = "00000000".repeat(6);
    let wanted = hex(&format!(
        "50000000 00000000 0200000000000000
         07000000 28000000 00000000 28004440  # 7.40, no readahead, flags
         4000 3000 00000100                   # background, congestion, max_write
         01000000 2100 0000                   # time_gran, 33 pages, no map alignment
         20000000 01000000                    # passthrough, stack depth 1
         {unused}"
    ));
    assert_eq!(reply.unwrap(), wanted);
}

#[test]
#[cfg(target_endian = "little")]
fn kernels_without_passthrough() {
    const EXT: u32 = 1 << 30;
    let file = RingFile::new("/nowhere", "ring");
    // Not offered; and bits of a kernel that does not have the second word at all.
    for (flags, flags2) in [(EXT, !32), (!EXT, u32::MAX)] {
        let (result, reply) = greet(&file, 36, flags, flags2);
        assert!(matches!(result, Err(Error::NoPassthrough)));
        assert_eq!(reply.unwrap(), hex("10000000 b9ffffff 0200000000000000"));
        let relaxed = file.clone().passthrough(Passthrough::IfAvailable);
        let (result, reply) = greet(&relaxed, 36, flags, flags2);
        assert!(!result.unwrap());
        assert_eq!(reply.unwrap()[48..56], [0; 8], "neither the flag nor a stack depth");
    }
    let off = file.passthrough(Passthrough::Off);
    assert!(!greet(&off, 40, u32::MAX, u32::MAX).0.unwrap(), "offered and not wanted");
}

#[test]
#[cfg(target_endian = "little")]
fn a_kernel_too_old() {
    let (result, reply) = greet(&RingFile::new("/nowhere", "ring"), 30, 0, 0);
    assert!(matches!(result, Err(Error::Version { major: 7, minor: 30 })));
    assert_eq!(reply.unwrap().len(), 16);
}
