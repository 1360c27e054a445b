//! How much clients may hold: open files, descriptors and ring memory, for each, for each user, and together.
//!
//! What the configuration does not say follows what there is ([`machine`]); what it says is taken, and a warning tells when
//! there is not so much.

mod ledger;
mod machine;

use std::fmt;

use cuse_rs::Errno;
use serde::{Deserialize, Serialize};

pub use ledger::{Ledger, Ticket, WorkerTicket};
pub use machine::{Machine, Purse, purse};

/// Descriptors that one open file takes at most: its memory, its state, and one that is on its way.
pub const DESCRIPTORS_PER_OPEN: u64 = 3;
/// Descriptors that one worker takes: the channel to it, and its process.
pub const DESCRIPTORS_PER_WORKER: u64 = 2;
/// Descriptors of the daemon itself: connections, pumps, the control socket, files it reads.
const OWN_DESCRIPTORS: u64 = 128;
/// Memory of the daemon itself. Never given to clients.
const OWN_MEMORY: u64 = 48 << 20;
/// What an open file may hold beside its rings: messages that wait to be read as copies (`nlmmap_ring::store`).
const QUEUED_PER_OPEN: u64 = 1 << 20;

/// The section `[limits]` of the configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    pub opens: Option<u32>,
    pub opens_per_uid: Option<u32>,
    pub descriptors: Option<u64>,
    pub descriptors_per_uid: Option<u64>,
    pub ring_bytes_per_open: Option<u64>,
    pub ring_bytes_per_uid: Option<u64>,
    pub ring_bytes: Option<u64>,
}

/// The limits in force.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Open files together.
    pub opens: u32,
    /// Open files of one user.
    pub opens_per_uid: u32,
    /// Descriptors of the daemon for all open files, and for workers.
    pub descriptors: u64,
    /// Descriptors of the daemon for the open files and workers of one user.
    pub descriptors_per_uid: u64,
    /// Bytes of both rings of one open file.
    pub ring_bytes_per_open: u64,
    /// Bytes of all rings of one user.
    pub ring_bytes_per_uid: u64,
    /// Bytes of all rings together.
    pub ring_bytes: u64,
}

impl Limits {
    /// The limits on this machine, and what to warn of.
    ///
    /// # Errors
    /// Why nobody could be served with so little.
    pub fn settle(wanted: &Wanted, machine: Machine) -> Result<(Limits, Vec<String>), String> {
        let mut warnings = Vec::new();
        let clients = machine.memory.saturating_sub(OWN_MEMORY);
        let there = machine.descriptors.saturating_sub(OWN_DESCRIPTORS.min(machine.descriptors / 2));
        if there < DESCRIPTORS_PER_OPEN {
            return Err(format!(
                "{} open descriptors are allowed, which leaves none for clients: raise LimitNOFILE= of the unit, or \
                 `ulimit -Hn`",
                machine.descriptors
            ));
        }
        let mut descriptors = wanted.descriptors.unwrap_or(there);
        if descriptors > there {
            warnings.push(format!(
                "descriptors = {descriptors}, but of the {} that are allowed {there} are for clients: raise \
                 LimitNOFILE= of the unit, or `ulimit -Hn`",
                machine.descriptors
            ));
            descriptors = there;
        }
        let fit = u32::try_from(descriptors / DESCRIPTORS_PER_OPEN).unwrap_or(u32::MAX);
        let hold = u32::try_from((clients / 4 / QUEUED_PER_OPEN).max(16)).unwrap_or(u32::MAX);
        let opens = wanted.opens.unwrap_or(hold.min(8192));
        if wanted.opens.is_some() && opens > fit {
            warnings.push(format!(
                "opens = {opens}, but {descriptors} descriptors are enough for {fit}: raise LimitNOFILE= of the unit, or \
                 `ulimit -Hn`"
            ));
        }
        let ring_bytes = wanted.ring_bytes.unwrap_or((clients / 2).min(1 << 30));
        if ring_bytes > clients {
            warnings.push(format!(
                "ring_bytes = {ring_bytes}, but this machine or control group has {} in all: a ring that does not fit \
                 any more is refused with ENOMEM",
                machine.memory
            ));
        }
        let ring_bytes_per_uid = wanted.ring_bytes_per_uid.unwrap_or(ring_bytes / 2);
        let limits = Limits {
            opens,
            opens_per_uid: wanted.opens_per_uid.unwrap_or((opens / 2).clamp(1, 2048)),
            descriptors,
            descriptors_per_uid: wanted.descriptors_per_uid.unwrap_or((descriptors / 2).max(DESCRIPTORS_PER_OPEN)),
            ring_bytes_per_open: wanted.ring_bytes_per_open.unwrap_or(ring_bytes_per_uid.min(64 << 20)),
            ring_bytes_per_uid,
            ring_bytes,
        };
        Ok((limits, warnings))
    }
}

/// Which limit is in the way, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    Opens(u32),
    OpensPerUid(u32),
    Descriptors(u64),
    DescriptorsPerUid(u64),
    RingBytesPerOpen(u64),
    RingBytesPerUid(u64),
    RingBytes(u64),
    /// Bytes that are left.
    Memory(u64),
}

impl Exceeded {
    /// What the client gets: what the system gives when its own tables are full.
    pub fn errno(self) -> Errno {
        match self {
            Exceeded::Opens(_) | Exceeded::Descriptors(_) => Errno::ENFILE,
            Exceeded::OpensPerUid(_) | Exceeded::DescriptorsPerUid(_) => Errno::EMFILE,
            _ => Errno::ENOMEM,
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value) = match *self {
            Exceeded::Opens(value) => ("opens", value.into()),
            Exceeded::OpensPerUid(value) => ("opens_per_uid", value.into()),
            Exceeded::Descriptors(value) => ("descriptors", value),
            Exceeded::DescriptorsPerUid(value) => ("descriptors_per_uid", value),
            Exceeded::RingBytesPerOpen(value) => ("ring_bytes_per_open", value),
            Exceeded::RingBytesPerUid(value) => ("ring_bytes_per_uid", value),
            Exceeded::RingBytes(value) => ("ring_bytes", value),
            Exceeded::Memory(left) => {
                return write!(f, "the {left} bytes of memory that are left: give the machine or control group more");
            }
        };
        let cure = match self {
            Exceeded::Descriptors(_) => "raise LimitNOFILE= of the unit, or `ulimit -Hn`",
            _ => "raise it in [limits] of the configuration",
        };
        write!(f, "the limit {name} = {value}: {cure}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Machine = Machine { memory: 64 << 30, descriptors: 1 << 20 };

    fn settle(wanted: &Wanted, machine: Machine) -> (Limits, Vec<String>) {
        Limits::settle(wanted, machine).unwrap()
    }

    #[test]
    fn defaults_follow_what_there_is() {
        let (large, warnings) = settle(&Wanted::default(), LARGE);
        assert_eq!((large.opens, large.opens_per_uid), (8192, 2048));
        assert_eq!(
            (large.ring_bytes_per_open, large.ring_bytes_per_uid, large.ring_bytes),
            (64 << 20, 512 << 20, 1 << 30)
        );
        assert!(warnings.is_empty());
        for mib in [20, 64, 128, 300, 1024, 4096] {
            let (small, _) = settle(&Wanted::default(), Machine { memory: mib << 20, descriptors: 1024 });
            let queued = u64::from(small.opens) * QUEUED_PER_OPEN;
            assert!(mib < 128 || small.ring_bytes + queued + OWN_MEMORY <= mib << 20, "{mib} MiB: {small:?}");
            assert!(small.ring_bytes_per_uid <= small.ring_bytes / 2, "{mib} MiB: {small:?}");
            assert!(small.descriptors + OWN_DESCRIPTORS <= 1024);
        }
        assert!(
            Limits::settle(&Wanted::default(), Machine { descriptors: 4, ..LARGE }).unwrap_err().contains("ulimit")
        );
    }

    #[test]
    fn what_is_said_is_taken_and_what_is_not_there_is_warned_of() {
        let wanted = Wanted { opens: Some(5), ring_bytes: Some(7), ..Wanted::default() };
        let (limits, warnings) = settle(&wanted, LARGE);
        assert_eq!((limits.opens, limits.ring_bytes, limits.ring_bytes_per_open), (5, 7, 3));
        assert!(warnings.is_empty());
        let wanted =
            Wanted { opens: Some(2000), descriptors: Some(3000), ring_bytes: Some(1 << 40), ..Wanted::default() };
        let (limits, warnings) = settle(&wanted, Machine { memory: 1 << 30, descriptors: 1024 });
        assert_eq!((limits.opens, limits.descriptors), (2000, 1024 - OWN_DESCRIPTORS));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (warning, word) in warnings.iter().zip(["descriptors = 3000", "opens = 2000", "ring_bytes = "]) {
            assert!(warning.starts_with(word), "{warning}");
        }
    }

    #[test]
    fn refusals_name_limit_and_cure() {
        assert_eq!(
            Exceeded::OpensPerUid(3).to_string(),
            "the limit opens_per_uid = 3: raise it in [limits] of the configuration"
        );
        assert!(Exceeded::Descriptors(3).to_string().contains("LimitNOFILE="));
        assert!(Exceeded::Memory(3).to_string().contains("control group"));
        assert_eq!(Exceeded::Descriptors(3).errno(), Errno::ENFILE);
        assert_eq!(Exceeded::Memory(3).errno(), Errno::ENOMEM);
    }
}
