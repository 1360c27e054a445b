//! An endpoint over the mock socket, and the client's side of its rings.

use crate::mock::{Mock, POISON};
use nlmmap_ring::abi::{FrameHdr, NETLINK_NETFILTER, nl_mmap_req, status};
use nlmmap_ring::control::Control;
use nlmmap_ring::endpoint::{Endpoint, Which};
use nlmmap_ring::errno::Result;
use nlmmap_ring::geometry::Geometry;
use nlmmap_ring::memory::RingMemory;
use nlmmap_ring::readiness;
use nlmmap_ring::rx::{Context, measure_bell};
use nlmmap_ring::sys::{IoVec, MsgHdr, SockaddrNl};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// The process that pumps.
pub const PID: u32 = 77;

pub struct Bench {
    pub endpoint: Box<Endpoint>,
    pub mock: Mock,
}

/// What a receive answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The return value.
    pub len: usize,
    pub bytes: Vec<u8>,
    pub flags: u32,
    pub portid: u32,
    pub groups: u32,
    pub control: Vec<u8>,
}

impl Bench {
    pub fn new(rx: Option<Geometry>, tx: Option<Geometry>, strict: bool) -> Bench {
        let endpoint = Box::new(Endpoint::empty());
        // A family whose packets were built in frames.
        endpoint.open(NETLINK_NETFILTER, strict).unwrap();
        let mock = Mock::default();
        mock.receive_room.set(212_992);
        for (which, geometry) in [(Which::Rx, rx), (Which::Tx, tx)] {
            if let Some(geometry) = geometry {
                endpoint.add_ring(which, geometry).unwrap();
                let base = endpoint.ring(which).unwrap().base().addr();
                mock.rings.borrow_mut().push(base..base + geometry.len());
            }
        }
        // Waiters are seen, unless a test says otherwise: no doorbells.
        endpoint.unseen.store(false, Ordering::Relaxed);
        Bench { endpoint, mock }
    }

    /// Gives the socket an address, by which it can ring its own bell.
    pub fn bind(&self, portid: u32) {
        let probe = Mock::default();
        probe.portid.set(portid);
        self.control().bell_bytes.store(measure_bell(&probe).unwrap(), Ordering::Relaxed);
        self.control().bell_secret.store(0x0102_0304_0506_0708, Ordering::Relaxed);
        self.mock.portid.set(portid);
    }

    pub fn control(&self) -> &Control {
        self.endpoint.control().unwrap()
    }

    pub fn rx(&self) -> &RingMemory {
        self.endpoint.rx().unwrap()
    }

    pub fn tx(&self) -> &RingMemory {
        self.endpoint.tx().unwrap()
    }

    pub fn service(&self, context: Context) {
        let before = self.mock.calls.get();
        self.endpoint.service(&self.mock, PID, context);
        let calls = self.mock.calls.get() - before;
        assert!(calls <= 5 * 4096, "one service made {calls} calls");
        self.check();
    }

    pub fn kick(&self, to: Option<SockaddrNl>, flags: u32) -> Result<usize> {
        let mut to = to;
        let mut template = MsgHdr::EMPTY;
        if let Some(name) = to.as_mut() {
            template.name = std::ptr::from_mut(name).cast();
            template.namelen = 12;
        }
        // SAFETY: the name is a local.
        unsafe { self.endpoint.kick(&self.mock, PID, &template, flags) }
    }

    /// `recvmsg` into vectors of these lengths.
    pub fn receive(&self, vectors: &[usize], flags: u32, control_room: usize) -> Result<Received> {
        let mut buffers: Vec<Vec<u8>> = vectors.iter().map(|n| vec![0xee; *n]).collect();
        let mut iov: Vec<IoVec> = buffers.iter_mut().map(|b| IoVec { base: b.as_mut_ptr(), len: b.len() }).collect();
        let mut name = SockaddrNl::default();
        // A client's own: aligned, with a guard behind it.
        let mut control = vec![0u64; control_room / 8 + 2];
        let mut msg = MsgHdr {
            name: (&raw mut name).cast(),
            namelen: 12,
            iov: iov.as_mut_ptr(),
            iovlen: iov.len(),
            control: control.as_mut_ptr().cast(),
            controllen: control_room,
            flags: 0,
        };
        // SAFETY: all of it is local and of the stated lengths.
        let len = unsafe { self.endpoint.receive(&self.mock, PID, &mut msg, flags)? };
        assert!(msg.controllen <= control_room);
        let control = control.iter().map(|word| word.to_ne_bytes()).collect::<Vec<_>>().concat();
        assert!(is_filled(&control[control_room.max(msg.controllen)..], 0), "ancillary data leaves its room");
        let mut bytes = if vectors.len() == 1 { buffers.remove(0) } else { buffers.concat() };
        assert!(is_filled(&bytes[len.min(bytes.len())..], 0xee), "written behind the message");
        bytes.truncate(len);
        self.check();
        let control = control[..msg.controllen].to_vec();
        Ok(Received { len, bytes, flags: msg.flags, portid: name.portid, groups: name.groups, control })
    }

    /// The whole first `COPY` message, whose frame says `len`.
    pub fn receive_whole(&self, len: usize) -> Result<Vec<u8>> {
        let got = self.receive(&[len + 1], 0, 0)?;
        assert_eq!(got.len, len, "nm_len of a COPY frame");
        Ok(got.bytes)
    }

    pub fn poll(&self) -> i16 {
        readiness::mask(&self.endpoint, self.control())
    }

    /// What must hold between any two calls, whatever the client does.
    pub fn check(&self) {
        let Some(rx) = self.endpoint.rx() else { return };
        let (c, nr) = (self.control(), rx.geometry().frame_nr());
        let word = |w: &AtomicU32| w.load(Ordering::Relaxed);
        assert!(word(&c.rx_head) < nr && word(&c.rx_oldest) < nr, "heads stay in the ring");
        assert!(word(&c.rx_outstanding) <= nr);
        let end = (u64::from(word(&c.rx_oldest)) + u64::from(word(&c.rx_outstanding))) % u64::from(nr);
        assert_eq!(end, u64::from(word(&c.rx_head)), "outstanding frames lie between oldest and head");
        let [tail, place, end] = [&c.store_tail, &c.store_place, &c.store_end].map(|w| w.load(Ordering::Relaxed));
        assert!(tail <= end && place <= end, "store: {tail} {place} {end}");
        if word(&c.copies) == 0 && word(&c.unplaced) == 0 {
            assert_eq!((tail, end), (0, 0), "an empty store begins anew");
        }
        assert!(c.lock.is_free() && c.tx_lock.is_free());
    }

    /// No frame shows anything that was never sent to this socket.
    pub fn check_no_leak(&self) {
        let Some(rx) = self.endpoint.rx() else { return };
        for pos in 0..rx.geometry().frame_nr() {
            // Miri takes long for a byte.
            let room = rx.geometry().room() as usize;
            let looked_at = if cfg!(miri) { room.min(64) } else { room };
            let leaked = payload(rx, pos, looked_at).contains(&POISON);
            assert!(!leaked, "frame {pos} holds private memory");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: nobody else is here.
        unsafe { self.endpoint.reset() };
    }
}

/// Whether all of it is this byte. Compared with itself, a byte further on: one call for the fuzzer, which would count each step of
/// a loop, and for the interpreter.
pub fn is_filled(bytes: &[u8], byte: u8) -> bool {
    bytes.split_first().is_none_or(|(first, rest)| *first == byte && *rest == bytes[..rest.len()])
}

/// One of the six words of a frame header, where the client has it.
pub fn word(ring: &RingMemory, pos: u32, index: usize) -> &AtomicU32 {
    assert!(index < 6);
    // SAFETY: a frame header has six aligned words, and lies inside the ring.
    unsafe { AtomicU32::from_ptr(ring.base().add(ring.geometry().offset(pos)).cast::<u32>().add(index)) }
}

pub fn status_of(ring: &RingMemory, pos: u32) -> u32 {
    word(ring, pos, 0).load(Ordering::Acquire)
}

pub fn set_status(ring: &RingMemory, pos: u32, status: u32) {
    word(ring, pos, 0).store(status, Ordering::Release);
}

pub fn payload(ring: &RingMemory, pos: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: a vector of that length; the engine does not write at this time.
    unsafe { ring.read_payload(pos, bytes.as_mut_ptr(), len) };
    bytes
}

/// Fills a transmit frame.
pub fn compose(ring: &RingMemory, pos: u32, bytes: &[u8], len: u32) {
    // SAFETY: a slice.
    unsafe { ring.write_payload(pos, bytes.as_ptr(), bytes.len()) };
    ring.write_header(pos, &FrameHdr { len, ..FrameHdr::default() });
    set_status(ring, pos, status::VALID);
}

prop_compose! {
    /// Small rings of every kind: one frame, frames without payload, slack, many blocks.
    pub fn geometry()(
        frame in prop_oneof![
            1 => Just(24u32),
            3 => (6u32..80).prop_map(|n| n * 4),
            3 => Just(2048u32),
            2 => (1u32..1024).prop_map(|n| n * 4 + 20),
            2 => Just(4096u32),
            1 => Just(65536u32),
        ],
        frames in prop_oneof![1 => Just(1u32), 4 => 1u32..9, 2 => 1u32..40],
    ) -> Geometry {
        let frame = frame.max(24);
        let block = frame.next_multiple_of(4096);
        let per_block = block / frame;
        // As few frames as whole blocks allow.
        let blocks = frames.div_ceil(per_block);
        let req = nl_mmap_req { nm_block_size: block, nm_block_nr: blocks, nm_frame_size: frame, nm_frame_nr: per_block * blocks };
        Geometry::check(&req, 4096, 1 << 30).unwrap()
    }
}
