//! The transmit pump: `VALID` frames to the real socket (`netlink_mmap_sendmsg` of 4.4).
//!
//! `nm_len` is read once, and the only copy of a payload is the one the kernel makes: nothing acts on a second read.

use crate::abi::{self, status};
use crate::control::{Control, flag};
use crate::endpoint::{Endpoint, full};
use crate::errno::{Errno, Result};
use crate::lock::Quiet;
use crate::memory::{Frame, Frames, RingMemory};
use crate::message;
use crate::rx::Context;
use crate::socket::Socket;
use crate::sys::{self, MsgHdr};
use crate::tap;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

mod joining;
mod refusal;
mod round;

use joining::{is_kernel, may_join};
use round::{Kick, Wants};

/// Frames given to one system call at most.
const BATCH: usize = 64;
/// Separate datagrams given to one system call at most.
const SEPARATE: usize = 16;
/// Bytes of a joined datagram at most.
const JOINED: usize = 16 << 10;

/// One `VALID` frame, its length read once and judged.
#[derive(Clone, Copy)]
struct Taken<'a> {
    pos: u32,
    len: usize,
    frame: Frame<'a>,
}

impl Endpoint {
    /// A thread of process `pid` is about to send, by a kick or otherwise, and will pump before it calls [`Self::end_send`].
    #[inline]
    pub fn begin_send(&self, pid: u32) {
        self.sending.fetch_add(1, AcqRel);
        if let Some(control) = self.control()
            && control.sender.load(Relaxed) != pid
        {
            note_sender(control, pid);
        }
    }

    /// See [`Self::begin_send`].
    #[inline]
    pub fn end_send(&self) {
        self.sending.fetch_sub(1, AcqRel);
    }

    /// A kick: sends every `VALID` frame from the head on. `template` carries the destination and ancillary data of the
    /// client's call, its vectors are not looked at. Replies are pumped as it goes.
    ///
    /// Returns the sum of the lengths sent, 0 when no frame was `VALID`.
    ///
    /// # Errors
    /// `EINVAL` for a frame whose `nm_len` is more than it holds (it stays); else the error of the send that failed (its
    /// frame is gone, later ones stay), though earlier frames were sent.
    ///
    /// # Safety
    /// The pointers of `template` are valid for the lengths beside them.
    pub unsafe fn kick<S: Socket>(&self, sock: &S, pid: u32, template: &MsgHdr, flags: u32) -> Result<usize> {
        let mut left = self.kick_frames();
        // SAFETY: the caller's duty.
        unsafe { self.kick_part(sock, pid, template, flags, &mut left, u32::MAX) }
    }

    /// Frames that one kick takes at most.
    pub fn kick_frames(&self) -> u32 {
        self.tx().map_or(0, RingMemory::frame_nr)
    }

    /// A part of a kick: no more than `rounds` system calls that send. `left` is [`Self::kick_frames`] before the first part,
    /// and 0 after the last.
    ///
    /// # Errors
    /// As [`Self::kick`]; then the kick is over.
    ///
    /// # Safety
    /// As [`Self::kick`].
    #[inline(always)]
    pub unsafe fn kick_part<S: Socket>(
        &self,
        sock: &S,
        pid: u32,
        template: &MsgHdr,
        flags: u32,
        left: &mut u32,
        rounds: u32,
    ) -> Result<usize> {
        let mut budget = core::mem::take(left);
        let (Some(control), Some(ring)) = (self.control(), self.tx()) else {
            return Ok(0);
        };
        // Whether nothing has been sent by this kick: until then it may be one that is refused as a whole.
        let mut begins = budget == ring.frame_nr();
        if control.tx_sleeper.load(Relaxed) != 0 && control.tx_sleeper.load(Relaxed) == sys::gettid() {
            // A signal handler above a kick that sleeps in this very thread: that one has the frames.
            return Err(Errno::AGAIN);
        }
        if begins && refusal::is_doubtful(template, flags) {
            // SAFETY: the caller's duty.
            unsafe { sock.would_send(template, flags) }?;
        }
        // Held to the end, as in the kernel: frames leave in their order whoever kicks.
        let quiet = Quiet::begin();
        let _held = control.tx_lock.hold_quietly(pid);
        let kick = Kick { endpoint: self, control, ring, sock, template, flags };
        let mut total = 0;
        // A send to a group may fail after it has reached members (ECONNREFUSED of its unicast part): it must never be tried
        // again to learn its error, so such frames go one by one.
        // Nor do messages to other processes in strict mode: a ring that fills refuses the next, as 4.5's did.
        let may_join = || may_join(template) && (!self.strict.load(Relaxed) || is_kernel(template));
        let mut rounds = rounds;
        while budget > 0 {
            if rounds == 0 {
                *left = budget;
                break;
            }
            rounds -= 1;
            let pos = ring.geometry().wrap(control.tx_head.load(Relaxed));
            let first = match take(ring, pos) {
                Ok(Some(first)) => first,
                none => {
                    if begins {
                        refusal::look(sock, template, flags, none.err())?;
                        // The kernel has given the socket a port id by then (`netlink_sendmsg`).
                        autobind(control, sock);
                    }
                    none?;
                    break;
                }
            };
            let next = ring.next(pos);
            let is_alone = budget == 1 || ring.status(next) != status::VALID || !may_join();
            // SAFETY: the caller's duty for the template; frames are live.
            let round = unsafe { if is_alone { kick.one(first) } else { kick.many(first, budget) } };
            total += round.bytes;
            let first_fails = core::mem::take(&mut begins) && round.sent == 0;
            budget = budget.saturating_sub(round.sent);
            if let Some((frame, error)) = round.failed {
                if first_fails {
                    refusal::look(sock, template, flags, Some(error))?;
                }
                let behind = round.sent > 0;
                if error == Errno::AGAIN && self.on_full.load(Relaxed) == full::STAYS {
                    // Behind others of one system call nobody knows why: the next round does.
                    self.service_quietly(sock, pid, Context::Send);
                    if behind {
                        continue;
                    }
                    self.on_full.store(full::STAYED, Relaxed);
                    *left = budget;
                    break;
                }
                budget = budget.saturating_sub(1);
                // SAFETY: as above.
                match unsafe { kick.failed(&quiet, frame, error, behind) } {
                    Ok(n) => total += n,
                    Err(error) => {
                        self.service_quietly(sock, pid, Context::Send);
                        return Err(error);
                    }
                }
            }
            match round.wants {
                Wants::Nothing if self.is_amid_walk(control) => control.set(flag::BEHIND, true),
                Wants::One(request) => self.answer_quietly(sock, pid, Some(request), self.sending.load(Relaxed) <= 1),
                _ => self.service_quietly(sock, pid, Context::Send),
            }
        }
        Ok(total)
    }
}

impl Endpoint {
    /// Takes the `VALID` frame at the head, as a kick does, and does not send it: for whoever judges messages before they are
    /// sent. Its payload is copied once, to `buffer`; how many bytes, none when no frame is `VALID`.
    ///
    /// # Errors
    /// `EINVAL` for a frame whose `nm_len` is more than it holds (it stays); `EMSGSIZE` for one that `buffer` does not hold
    /// (it is gone).
    pub fn take_frame(&self, pid: u32, buffer: &mut [u8]) -> Result<Option<usize>> {
        let (Some(control), Some(ring)) = (self.control(), self.tx()) else {
            return Ok(None);
        };
        let _held = control.tx_lock.hold(pid);
        let pos = ring.geometry().wrap(control.tx_head.load(Relaxed));
        let Some(frame) = take(ring, pos)? else {
            return Ok(None);
        };
        let place = buffer.get_mut(..frame.len);
        let taken = match place {
            Some(place) => {
                // SAFETY: the place is writable for its length, and not in the ring.
                unsafe { ring.read_payload(pos, place.as_mut_ptr(), place.len()) };
                note_request(control, place);
                Ok(Some(frame.len))
            }
            None => Err(Errno::MSGSIZE),
        };
        ring.set_status(pos, status::UNUSED);
        control.tx_head.store(ring.geometry().wrap(pos + 1), Relaxed);
        control.count(&control.counters.tx_frames, 1);
        if control.has(flag::TAPPED) {
            let _held = control.lock.hold(pid);
            tap::copy_as(self, control, status::RESERVED);
        }
        taken
    }

    /// Whether the client is in the middle of a walk: the two newest frames are `VALID`, so it has more to read than the one
    /// that it may be at.
    fn is_amid_walk(&self, control: &Control) -> bool {
        let Some(rx) = self.rx() else { return false };
        let newest = rx.prev(rx.geometry().wrap(control.rx_head.load(Relaxed)));
        !self.strict.load(Relaxed)
            && rx.frame_nr() > 1
            && control.flags.load(Relaxed) & (flag::DUMP | flag::DUMPING | flag::TAPPED) == 0
            && rx.status(newest) == status::VALID
            && rx.status(rx.prev(newest)) == status::VALID
    }
}

/// Gives the socket a port id if it has none, as any send does.
fn autobind<S: Socket>(control: &Control, sock: &S) {
    if control.portid.load(Relaxed) == 0 {
        let portid = sock.portid().and_then(|portid| if portid == 0 { sock.autobind() } else { Ok(portid) });
        control.portid.store(portid.unwrap_or(0), Relaxed);
    }
}

/// Another process sends than before: in that one's place if it is gone, else beside it.
#[cold]
fn note_sender(control: &Control, pid: u32) {
    let before = control.sender.swap(pid, AcqRel);
    if before != 0 && before != pid && !sys::is_dead(before) {
        control.set(flag::SHARED, true);
    }
}

/// The frame at `pos` if it is `VALID`, its length read once and judged.
#[inline]
fn take(ring: &RingMemory, pos: u32) -> Result<Option<Taken<'_>>> {
    let frame = ring.frame(pos);
    if frame.status() != status::VALID {
        return Ok(None);
    }
    let len = frame.len_word();
    if len > ring.geometry().room() { Err(Errno::INVAL) } else { Ok(Some(Taken { pos, len: len as usize, frame })) }
}

/// Looks at the head of a request that is about to be sent.
pub fn note_request(control: &Control, head: &[u8]) {
    if message::header(head, 0).is_some_and(|m| m.flags & abi::NLM_F_DUMP == abi::NLM_F_DUMP) {
        control.set(flag::DUMP, true);
    }
}
