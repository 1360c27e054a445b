//! What those who look see of an open file, without asking its worker: `stat`, `top`, metrics.

use std::sync::atomic::Ordering;

use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::control::Control;

use super::{File, Home};
use crate::serve::memory::Shared;

impl File {
    /// The engine's counters and positions.
    pub fn control(&self) -> Option<&Control> {
        self.family.get().and(self.shared.get()).map(Shared::control)
    }

    /// `NETLINK_*` number, once the client has made its socket.
    pub fn family(&self) -> Option<u32> {
        self.family.get().map(|(family, _)| *family)
    }

    pub fn is_strict(&self) -> bool {
        self.family.get().is_some_and(|(_, strict)| *strict)
    }

    /// The process that has its socket.
    pub fn worker(&self) -> Option<u32> {
        match &self.state().home {
            Home::At(at) => at.worker.pid(),
            _ => None,
        }
    }

    /// Geometry of both rings.
    pub fn geometry(&self) -> [Option<nl_mmap_req>; 2] {
        self.state().rings
    }

    /// RX frames that the client has not released, as far as known.
    pub fn occupancy(&self) -> u32 {
        self.control().map_or(0, |control| control.rx_outstanding.load(Ordering::Relaxed))
    }
}
