//! Setting, placing and freezing the rings.

use std::os::fd::{AsRawFd, OwnedFd};

use cuse_rs::Errno;
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::endpoint::Which;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::sys;

use super::{Open, endpoint_over, os};
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
        self.leave();
        *self.rings.slot(which) = wanted;
        let memory = memory.ok_or(Errno::EBADF)?;
        let placed = self.place(memory, which == Which::Rx);
        if placed.is_err() {
            *self.rings.slot(which) = None;
            if self.place(memory, which == Which::Rx).is_err() {
                (self.rings.rx, self.rings.tx) = (None, None);
            }
        }
        placed?;
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

    /// Sets the engine's rings to what `rings` says; the receive ring is made anew when it or its size changes. The memory may be longer:
    /// what lies behind the rings is the front's to give back.
    fn place(&mut self, memory: &OwnedFd, anew: bool) -> Result<(), Errno> {
        let (rx_len, tx_len) = (self.rings.len(Which::Rx), self.rings.len(Which::Tx));
        self.rings.laid += 1;
        // SAFETY: this process has one thread.
        unsafe {
            self.endpoint.drop_ring(Which::Tx);
            if anew {
                self.endpoint.drop_ring(Which::Rx);
            }
        }
        let keep = if anew { 0 } else { rx_len };
        memory::resize(memory, keep..self.rings.used, rx_len + tx_len).map_err(memory::errno)?;
        self.rings.used = self.rings.used.max(rx_len + tx_len);
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
        Ok(())
    }

    /// Changes whenever the rings may have come to lie in the memory that was sent with a request.
    pub fn laid(&self) -> u64 {
        self.rings.laid
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

    /// `NLMMAP_MEMORY`: from now on the rings lie in the client's own memfd, which the front has judged, with all that is in
    /// them. Descriptors: that one, the memory they lie in, and the shared state.
    pub(super) fn use_memory(&mut self, fds: &[OwnedFd]) -> Result<(), Errno> {
        let [to, from, state] = fds else {
            return Err(Errno::EBADF);
        };
        if !self.cuse {
            return Err(Errno::EBADF);
        }
        self.leave();
        let len = self.rings.len(Which::Rx) + self.rings.len(Which::Tx);
        memory::reserve(to, len).map_err(memory::errno)?;
        memory::copy(from, to, len)?;
        let endpoint = endpoint_over(self.socket.family, self.is_strict(), state)?;
        let before = std::mem::replace(&mut self.endpoint, endpoint);
        let added = self.add_rings(to, false);
        if added.is_ok() {
            self.endpoint.keep_tap_of(&before);
        }
        // Where they are not, what was built of them goes, and all is as it was.
        let unused = if added.is_ok() { before } else { std::mem::replace(&mut self.endpoint, before) };
        // SAFETY: the owner is the only user of its endpoints.
        unsafe { unused.reset() };
        added
    }
}
