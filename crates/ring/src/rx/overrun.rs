//! What is told of a message that finds no frame (`netlink_overrun`, protocol.md).

use super::Pump;
use crate::control::{Control, flag};
use crate::endpoint::Endpoint;
use crate::errno::Errno;
use crate::message::NLMSG_GOODSIZE;
use crate::socket::Socket;
use crate::trouble::{self, Trouble};
use core::sync::atomic::Ordering::Relaxed;

impl Endpoint {
    /// An error that was taken from the real socket is the client's to see. But a socket that is congested as 4.5 understood it
    /// (strict mode) loses more without a word until it is drained (`netlink_overrun`), and the real one cannot know.
    pub fn pass_on(&self, control: &Control, error: Errno) {
        if error == Errno::NOBUFS {
            control.count(&control.counters.overruns, 1);
            trouble::report(self, Trouble::LostByKernel);
            if self.strict.load(Relaxed) && control.has(flag::CONGESTED) {
                return;
            }
        }
        control.tell(error);
    }
}

impl<S: Socket> Pump<'_, S> {
    /// Whether the client wants to know of lost messages, and has not been told since it drained its queue.
    fn may_be_told(&self) -> bool {
        !self.control.has(flag::NO_ENOBUFS) && !self.control.has(flag::CONGESTED)
    }

    /// A message was lost: `netlink_overrun`. In strict mode that also holds up those who send.
    pub(super) fn overrun(&self, is_ack: bool) {
        self.control.count(&self.control.counters.overruns, 1);
        trouble::report(self.endpoint, Trouble::Lost);
        // The kernel told of a lost acknowledgement whatever the client had set (`netlink_ack`).
        if self.report(is_ack) && !is_ack && self.endpoint.strict.load(Relaxed) {
            self.congest();
        }
    }

    /// Tells that a message has found no frame: if the client wants to know and has not heard since it drained its queue, or
    /// `always`. Whether the socket is congested by it.
    fn report(&self, always: bool) -> bool {
        let first = self.may_be_told();
        if first || always {
            self.control.tell(Errno::NOBUFS);
        }
        if first {
            self.control.set(flag::CONGESTED, true);
        }
        first
    }

    /// 4.5 would have made the next part of the dump now, and had no frame for it. It lives on, and goes on in waits. A part for
    /// the frame was not made then, and the error told whatever the client had set: by `netlink_ack` of the request, or by
    /// `netlink_recvmsg`. A part that travels by `COPY` was lost (`netlink_ring_set_copied`); here it is kept.
    pub(super) fn refuse_dump(&self) {
        self.went_on.set(true);
        self.control.set(flag::DUMPING, true);
        self.report(self.ring.geometry().room() >= NLMSG_GOODSIZE);
    }
}
