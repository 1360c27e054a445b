//! One record as a packet of the file.

use std::io::{self, Write};

use nlmmap_ring::abi::status;
use nlmmap_ring::tap::{Record, kind};

use crate::see::copies::Passed;
use crate::see::pcapng::{self, Packet, Way};

/// What is known beside the record.
#[derive(Clone, Copy)]
pub struct About {
    /// Number of its interface.
    pub interface: u32,
    pub family: u16,
    /// Messages that were dropped since the packet before.
    pub dropped: u64,
}

/// Writes it.
pub fn write(to: &mut impl Write, passed: &Passed<'_>, about: About) -> io::Result<()> {
    let Passed { record, bytes } = passed;
    let comment = comment(record, bytes.len());
    let packet = Packet {
        interface: about.interface,
        time: record.time,
        way: if record.kind == kind::TX { Way::Out } else { Way::In },
        family: about.family,
        bytes,
        whole: if record.kind == kind::LOSS { 0 } else { record.whole.max(bytes.len() as u32) },
        comment: &comment,
        dropped: about.dropped,
    };
    pcapng::packet(to, &packet)
}

/// What the file says beside a message.
fn comment(record: &Record, kept: usize) -> String {
    let words = |error: u32| io::Error::from_raw_os_error(error.cast_signed()).to_string();
    let Record { position, whole, group, pid, .. } = record;
    match record.kind {
        kind::LOSS => format!("{whole} losses before this ({})", words(record.error)),
        kind::TX if record.error != 0 => format!("tx frame {position}: not sent: {}", words(record.error)),
        // In a daemon: a rule of policy decides, and its refusal is an answer in the receive ring.
        kind::TX if record.status == status::RESERVED => {
            format!("tx frame {position}: judged by policy, {whole} bytes")
        }
        kind::TX => format!("tx frame {position}: sent, {whole} bytes"),
        _ => {
            let status = match record.status {
                status::VALID => "VALID",
                status::COPY if kept == 0 && *whole > 0 => "COPY, read before it was captured",
                status::COPY => "COPY",
                status::UNUSED => "VALID, released already",
                _ => "in a state that it was given by the program",
            };
            format!("rx frame {position}: {status}, {whole} bytes, group {group}, sender {pid}")
        }
    }
}
