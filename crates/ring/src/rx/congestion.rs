//! Strict mode: a congested socket makes its senders wait (`netlink_attachskb`, `netlink_rcv_wake`).
//!
//! The kernel of 4.5 refused, or put to sleep, whoever sent to a socket whose reader had lost a message and not drained its
//! queue since. From userspace the same is reached by the real socket's own limit: its receive buffer is made as small as the
//! kernel allows, and a plug, a doorbell larger than that, is put into it.

use super::{Pump, Step};
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::memory::RingMemory;
use crate::rx::Context;
use crate::socket::Socket;
use crate::store::Meta;
use core::sync::atomic::Ordering::Relaxed;

/// Bytes of a plug: more than the smallest receive buffer.
pub(super) const PLUG: usize = 4096;

impl Endpoint {
    /// The client has set `NETLINK_NO_ENOBUFS`: it is congested no longer.
    pub fn forgive<S: Socket>(&self, sock: &S, pid: u32) {
        if let (Some(control), Some(ring)) = (self.control(), self.rx())
            && control.has(flag::CONGESTED)
        {
            let _held = control.lock.hold(pid);
            self.relieve_held(control, ring, sock);
            self.service_held(control, ring, sock, Context::Send);
        }
    }

    /// The client has drained its queue: senders may go on.
    pub(super) fn relieve_held<S: Socket>(&self, control: &Control, ring: &RingMemory, sock: &S) {
        Pump::new(self, control, ring, sock, Context::Recv).relieve();
    }
}

impl<S: Socket> Pump<'_, S> {
    /// Makes the real socket's room small, and plugs it if what is queued does not fill it (kernels from 6.16 on count the new
    /// message too, and refuse the plug where the queue is as good as full).
    pub(super) fn congest(&self) {
        if self.control.has(flag::NARROW) {
            return;
        }
        let Ok(before) = self.sock.set_receive_room(0) else { return };
        self.control.room_before.store(before, Relaxed);
        self.control.set(flag::NARROW, true);
        if self.ring_with::<PLUG>() {
            self.control.set(flag::PLUG, true);
        }
    }

    /// `netlink_rcv_wake`, once the client's queue is empty.
    pub(super) fn relieve(&self) {
        self.control.set(flag::CONGESTED, false);
        if self.control.has(flag::NARROW) {
            let _ = self.sock.set_receive_room(self.control.room_before.load(Relaxed) / 2);
            self.control.set(flag::NARROW, false);
        }
    }

    /// Whether the datagram at the head of the real queue is the plug.
    pub(super) fn is_plug(&self, meta: &Meta, len: usize) -> bool {
        len == PLUG && self.control.has(flag::PLUG) && meta.portid == self.control.portid.load(Relaxed)
    }

    /// The plug stays while the socket is congested.
    pub(super) fn leave_or_pull_plug(&self) -> Step {
        if self.control.has(flag::CONGESTED) {
            return self.blocked(false);
        }
        match self.receive_private(0, 0) {
            Ok(_) => {
                self.control.set(flag::PLUG, false);
                Step::Moved
            }
            Err(error) => self.failed(error),
        }
    }
}
