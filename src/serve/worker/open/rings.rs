//! Setting, placing and freezing the rings.

use std::os::fd::{AsRawFd, OwnedFd};

use cuse_rs::Errno;
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::endpoint::Which;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::sys;

use super::{Open, os};
use crate::serve::abi::{self, MapInfo};
use crate::serve::memory;

impl Open {
    /// `NLMMAP_RX_RING`, `NLMMAP_TX_RING`: the checks and their order are those of `netlink_set_ring`.
    pub(super) fn set_ring(
        &mut self,
        which: Which,
        request: &nl_mmap_req,
        memory: Option<&OwnedFd>,
    ) -> Result<(), Errno> {
        if self.rings.fixed {
            return Err(Errno::EBUSY);
        }
        let wanted = if request.nm_block_nr != 0 {
            if self.rings.slot(which).is_some() {
                return Err(Errno::EBUSY);
            }
            let machine = sys::total_memory().max(1 << 20);
            Some(Geometry::check(request, sys::PAGE as u32, machine).map_err(os)?)
        } else if request.nm_frame_nr != 0 {
            return Err(Errno::EINVAL);
        } else {
            None
        };
        *self.rings.slot(which) = wanted;
        if self.cuse {
            // They move again when there is memory for the new ones.
            self.rings.active = false;
            // SAFETY: this process has one thread.
            unsafe {
                self.endpoint.drop_ring(Which::Tx);
                self.endpoint.drop_ring(Which::Rx);
            }
        } else {
            let memory = memory.ok_or(Errno::EBADF)?;
            let placed = self.place(memory, which == Which::Rx);
            if placed.is_err() {
                *self.rings.slot(which) = None;
                if self.place(memory, which == Which::Rx).is_err() {
                    (self.rings.rx, self.rings.tx) = (None, None);
                }
            }
            placed?;
        }
        if which == Which::Rx {
            self.own.clear();
            match wanted {
                Some(ring) => {
                    self.note_options();
                    let strict = self.is_strict();
                    let (bytes, frames) = if strict { (0, 0) } else { (ring.len(), ring.frame_nr() as usize) };
                    self.socket.begin_ring(bytes, frames);
                }
                None => self.socket.drain(),
            }
        }
        Ok(())
    }

    /// Sets the engine's rings to what `rings` says; the receive ring is made anew when it or its size changes.
    fn place(&mut self, memory: &OwnedFd, anew: bool) -> Result<(), Errno> {
        let (rx_len, tx_len) = (self.rings.len(Which::Rx), self.rings.len(Which::Tx));
        // SAFETY: this process has one thread.
        unsafe {
            self.endpoint.drop_ring(Which::Tx);
            if anew {
                self.endpoint.drop_ring(Which::Rx);
            }
        }
        let keep = if anew { 0 } else { rx_len };
        memory::resize(memory, keep, rx_len + tx_len).map_err(memory::errno)?;
        self.add_rings(memory, true)
    }

    pub(super) fn add_rings(&mut self, memory: &OwnedFd, fresh: bool) -> Result<(), Errno> {
        let fd = memory.as_raw_fd();
        let places = [(Which::Rx, self.rings.rx, 0), (Which::Tx, self.rings.tx, self.rings.len(Which::Rx))];
        for (which, ring, offset) in places {
            if let Some(geometry) = ring
                && self.endpoint.ring(which).is_none()
            {
                if fresh {
                    self.endpoint.add_ring_at(which, geometry, fd, offset).map_err(os)?;
                } else {
                    self.endpoint.adopt_ring_at(which, geometry, fd, offset).map_err(os)?;
                }
            }
        }
        self.rings.active = true;
        Ok(())
    }

    /// `NLMMAP_MAP_INFO`: from now on the rings stay as they are. The front seals their memory.
    pub(super) fn map_info(&mut self) -> Result<MapInfo, Errno> {
        let (rx_len, tx_len) = (self.rings.len(Which::Rx) as u64, self.rings.len(Which::Tx) as u64);
        if rx_len + tx_len == 0 {
            return Err(Errno::EINVAL);
        }
        self.rings.fixed = true;
        Ok(MapInfo { how: if self.cuse { abi::MAP_MEMORY } else { abi::MAP_NODE }, pad: 0, rx_len, tx_len })
    }

    /// `NLMMAP_MEMORY`: the rings shall lie in the client's own memfd, which the front has judged.
    pub(super) fn use_memory(&mut self, memory: Option<&OwnedFd>) -> Result<(), Errno> {
        if self.rings.active {
            return Err(Errno::EBUSY);
        }
        let memory = memory.filter(|_| self.cuse).ok_or(Errno::EBADF)?;
        memory::reserve(memory, self.rings.len(Which::Rx) + self.rings.len(Which::Tx)).map_err(memory::errno)?;
        self.add_rings(memory, true)
    }
}
