//! The ABI as a plain model: `netlink_unicast`, `netlink_poll` and `netlink_recvmsg` of 4.4 over vectors.
//!
//! Strict mode is that kernel. Default mode differs in two ways that a client sees (compat.md): a message is `VALID`
//! whenever it fits, and a message that finds no frame waits, and is not told, instead of being lost and told.

use crate::message::Class;
use crate::mock::Datagram;
use nlmmap_ring::abi::status;
use nlmmap_ring::geometry::Geometry;
use std::collections::VecDeque;

const ENOBUFS: u32 = 105;

#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The header, status first.
    pub words: [u32; 6],
    /// What the kernel last wrote behind it.
    pub payload: Vec<u8>,
}

pub struct Reference {
    pub strict: bool,
    pub no_enobufs: bool,
    pub frames: Vec<Frame>,
    pub head: usize,
    pub error: u32,
    congested: bool,
    /// What waits for `recv`.
    pub copies: VecDeque<Datagram>,
    /// What waits in the socket.
    pub socket: VecDeque<(Class, Datagram)>,
    pub lost: u64,
    room: usize,
}

impl Reference {
    pub fn new(geometry: &Geometry, strict: bool) -> Reference {
        Reference {
            strict,
            no_enobufs: false,
            frames: vec![Frame::default(); geometry.frame_nr() as usize],
            head: 0,
            error: 0,
            congested: false,
            copies: VecDeque::new(),
            socket: VecDeque::new(),
            lost: 0,
            room: geometry.room() as usize,
        }
    }

    fn status(&self, pos: usize) -> u32 {
        self.frames[pos].words[0]
    }

    /// Where `netlink_forward_ring` leads.
    fn forward(&self) -> usize {
        let nr = self.frames.len();
        let ahead = (0..nr).map(|n| (self.head + n) % nr);
        ahead.clone().find(|pos| self.status(*pos) != status::SKIP).unwrap_or(self.head)
    }

    fn publish(&mut self, d: &Datagram, status: u32) {
        let frame = &mut self.frames[self.head];
        frame.words = [status, d.bytes.len() as u32, d.group, d.creds[0], d.creds[1], d.creds[2]];
        if status == status::VALID {
            frame.payload = d.bytes.clone();
        }
        self.head = (self.head + 1) % self.frames.len();
    }

    fn copy(&mut self, d: Datagram) {
        self.publish(&d, status::COPY);
        self.copies.push_back(d);
    }

    /// `netlink_overrun`; an acknowledgement that is lost is told whatever the client has set (`netlink_ack`).
    fn overrun(&mut self, is_ack: bool) {
        self.lost += 1;
        let first = !self.no_enobufs && !self.congested;
        if first || is_ack {
            self.error = ENOBUFS;
        }
        self.congested |= first;
    }

    /// Every message that waits in the socket takes its way. `reader`: the client waits, or has just received.
    pub fn service(&mut self, reader: bool) {
        if reader && self.copies.is_empty() {
            self.congested = false;
        }
        while let Some((class, d)) = self.socket.pop_front() {
            let fits = d.bytes.len() <= self.room;
            let in_frame = fits
                && match class {
                    Class::Ack | Class::Packet => true,
                    // `VALID` without bytes is a frame that was given up.
                    Class::Reply | Class::Event(_) | Class::Peer(_) => !self.strict && !d.bytes.is_empty(),
                };
            // What was built elsewhere is not led past frames that are kept (`netlink_ring_set_copied`).
            let pos = if in_frame || !self.strict { self.forward() } else { self.head };
            let free = self.status(pos) == status::UNUSED;
            // A message that waits has not moved anything yet.
            if free || self.strict {
                self.head = pos;
            }
            match (free, self.strict) {
                (false, false) => {
                    self.socket.push_front((class, d));
                    return;
                }
                (false, true) => self.overrun(class == Class::Ack && fits),
                (true, _) if in_frame => self.publish(&d, status::VALID),
                // `netlink_attachskb`: nothing is queued for a congested socket.
                (true, true) if self.congested => self.overrun(false),
                (true, _) => self.copy(d),
            }
        }
    }

    /// `recv` found nothing (`netlink_rcv_wake`).
    pub fn drained(&mut self) {
        self.congested = false;
    }

    pub fn is_readable(&self) -> bool {
        !self.copies.is_empty() || self.frames.iter().any(|f| f.words[0] == status::VALID)
    }
}
