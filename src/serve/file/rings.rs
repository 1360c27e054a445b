//! The rings of an open file, as far as the front has a say: limits, memory, who maps them.

use std::sync::Arc;

use cuse_rs::{Caller, Errno, IoctlReply, NodeKind};
use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::endpoint::Which;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::sys;

use super::{File, GONE, Home, NO_SOCKET, both, bytes_of, len};
use crate::serve::worker::open::RingState;
use crate::serve::worker::wire::op;
use crate::serve::workers::Then;
use crate::serve::{abi, log, memory};

impl File {
    /// `NLMMAP_RX_RING`, `NLMMAP_TX_RING`: within the limits. Everything else about them is the worker's to judge.
    pub fn set_ring(self: &Arc<File>, caller: &Caller, which: Which, request: nl_mmap_req, reply: IoctlReply) {
        let index = usize::from(which == Which::Tx);
        let (mut asked, mut total) = (0, 0);
        let mut state = self.state();
        if !state.has_socket() {
            return reply.error(if matches!(state.home, Home::Lost) { GONE } else { NO_SOCKET });
        }
        if state.mappers.any() {
            return reply.error(Errno::EBUSY);
        }
        let machine = sys::total_memory().max(1 << 20);
        state.changing += 1;
        let may_be = !state.fixed && state.rings.get(index).is_some_and(Option::is_none);
        if may_be && request.nm_block_nr != 0 && Geometry::check(&request, sys::PAGE as u32, machine).is_ok() {
            asked = len(&request);
            let bytes = both(&state.rings) + state.asked + asked;
            if let Err(limit) = state.ticket.set_ring_bytes(bytes) {
                state.changing -= 1;
                log::refused(&self.client, format_args!("rings of {bytes} bytes exceed {limit}"));
                return reply.error(limit.errno());
            }
            state.asked += asked;
            total = bytes;
        }
        let ours =
            if state.theirs { memory::new().map_err(memory::errno).map(Arc::new) } else { Ok(state.memory.clone()) };
        drop(state);
        let ours = match ours {
            Ok(ours) => ours,
            Err(errno) => {
                self.keep_books(asked, None);
                return reply.error(errno);
            }
        };
        let (file, paid, memory) = (self.clone(), ours.clone(), ours.clone());
        let then: Then = Box::new(move |answer| {
            let rings = answer.as_ref().ok().and_then(|packet| abi::read::<RingState>(&packet.bytes));
            if answer.as_ref().is_ok_and(|packet| packet.head.value != 0) {
                let mut state = file.state();
                (state.memory, state.theirs) = (ours, false);
            }
            file.keep_books(asked, rings);
            match bytes_of(answer) {
                Ok(_) => drop(reply.done(0, &[])),
                Err(errno) => reply.error(errno),
            }
        });
        let cmd = if which == Which::Rx { abi::RX_RING } else { abi::TX_RING };
        let head = self.head(op::IOCTL, u64::from(cmd), 0);
        let needs = (asked != 0).then_some((paid, total as usize));
        self.act_paid(caller, head, abi::bytes(&request).to_vec(), vec![memory], needs, then);
    }

    /// What was asked for is there or is not: from now on what is there counts.
    fn keep_books(&self, asked: u64, rings: Option<RingState>) {
        let mut state = self.state();
        state.asked -= asked;
        state.changing -= 1;
        if let Some(RingState { rx, tx }) = rings {
            state.rings = [rx, tx].map(|ring| (ring.nm_block_nr != 0).then_some(ring));
        }
        let bytes = both(&state.rings) + state.asked;
        // No more than before, but for a worker that lies: then the limits refuse, and what was counted stays.
        let _ = state.ticket.set_ring_bytes(bytes);
        if state.changing == 0 && !state.theirs {
            // Allocated for rings that did not come to be, or are no more. The worker has told what it has mapped.
            memory::trim(&state.memory, bytes as usize);
        }
    }

    /// `NLMMAP_MAP_INFO`
    pub fn map_info(self: &Arc<File>, reply: IoctlReply) {
        let file = self.clone();
        let then: Then = Box::new(move |answer| match bytes_of(answer) {
            Ok(bytes) => {
                let mut state = file.state();
                // The worker has told what it has mapped.
                let len = abi::read::<abi::MapInfo>(&bytes).map_or(0, |info| info.rx_len + info.tx_len);
                if file.node == NodeKind::Fuse
                    && !state.fixed
                    && let Err(error) = memory::seal_at(&state.memory, len as usize)
                {
                    drop(state);
                    return reply.error(memory::errno(error));
                }
                state.fixed = true;
                drop(state);
                let _ = reply.done(0, &bytes);
            }
            Err(errno) => reply.error(File::ring_error(errno)),
        });
        self.ask(self.head(op::IOCTL, u64::from(abi::MAP_INFO), 0), Vec::new(), then);
    }

    /// `NLMMAP_MEMORY`: the rings shall lie in the client's own memfd.
    pub fn use_memory(self: &Arc<File>, caller: &Caller, number: i32, reply: IoctlReply) {
        if self.node == NodeKind::Fuse {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.state();
        let (len, before) = (both(&state.rings) as usize, state.memory.clone());
        if !state.fixed && !state.mappers.any() || caller.tid == 0 {
            return reply.error(Errno::EINVAL);
        }
        // Who has been given the rings would not see where they go. A process that has them no more has said so, or has ended.
        if state.theirs && (state.fixed || state.mappers.has_others(caller)) || state.giving {
            return reply.error(Errno::EBUSY);
        }
        state.giving = true;
        drop(state);
        let prepared = memory::take(caller.tid, number, len).and_then(|taken| {
            let (shared, taken) = (self.shared.get().ok_or(NO_SOCKET)?, Arc::new(taken));
            Ok((vec![taken.clone(), before, shared.memory().clone()], taken))
        });
        let (fds, theirs) = match prepared {
            Ok(prepared) => prepared,
            Err(errno) => {
                self.state().giving = false;
                return reply.error(errno);
            }
        };
        let (file, needs) = (self.clone(), Some((theirs.clone(), len)));
        let then: Then = Box::new(move |answer| {
            let done = bytes_of(answer);
            let mut state = file.state();
            state.giving = false;
            if done.is_ok() {
                (state.memory, state.theirs) = (theirs, true);
            }
            drop(state);
            match done {
                Ok(_) => drop(reply.done(0, &[])),
                Err(errno) => reply.error(errno),
            }
        });
        self.act_paid(caller, self.head(op::IOCTL, u64::from(abi::MEMORY), 0), Vec::new(), fds, needs, then);
    }

    /// `NLMMAP_MAPPED`
    pub fn note_mapped(&self, caller: &Caller, mapped: bool) -> Result<abi::Mapped, Errno> {
        let mut state = self.state();
        if !state.has_socket() {
            return Err(if matches!(state.home, Home::Lost) { GONE } else { NO_SOCKET });
        }
        if mapped && state.changing > 0 {
            // By another thread, at this moment: nobody can say what there will be to map.
            return Err(Errno::EBUSY);
        }
        let [rx_len, tx_len] = state.rings.map(|ring| ring.as_ref().map_or(0, len));
        if mapped && rx_len + tx_len == 0 {
            return Err(Errno::EINVAL);
        }
        state.mappers.note(caller, mapped)?;
        let how = if self.node == NodeKind::Fuse { abi::MAP_NODE } else { abi::MAP_MEMORY };
        Ok(abi::Mapped { mapped: u32::from(mapped), how, rx_len, tx_len })
    }
}
