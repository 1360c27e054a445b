//! Kicks, a slice at a time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cuse_rs::Errno;
use nlmmap_ring::endpoint::full;
use nlmmap_ring::sys::{MsgHdr, SockaddrNl};

use super::{Open, Running, os};
use crate::serve::abi::{self, Kick};
use crate::serve::socket::Credentials;
use crate::serve::worker::screen::Screened;
use crate::serve::worker::sifted::Sifted;

/// So long a kick holds the worker before others have their turn.
const SLICE: Duration = Duration::from_micros(100);
/// A kick that has lasted so long ends early when its caller is interrupted.
const LONG: Duration = Duration::from_millis(250);
/// A receiver without room is tried again after each of these, doubling: nothing tells when it has some.
const FIRST_NAP: Duration = Duration::from_micros(50);
const LAST_NAP: Duration = Duration::from_millis(5);

impl Open {
    /// `NLMMAP_KICK`: begins. It goes on with [`Self::go_on`].
    pub fn begin_kick(&mut self, id: u64, argument: &[u8], sender: Option<Credentials>) -> Result<(), Errno> {
        let (kick, rest) = abi::split::<Kick>(argument).ok_or(Errno::EINVAL)?;
        let sender = match rest {
            [] => sender,
            // Named by the client: the kernel judges, by the rights of this process, which are the client's.
            _ => {
                let named: abi::KickAs =
                    abi::read(argument).filter(|named: &abi::KickAs| named.flags == 0).ok_or(Errno::EINVAL)?;
                Some(Credentials::new(named.pid, named.uid, named.gid))
            }
        };
        let waits = kick.dest_len & abi::KICK_DONTWAIT == 0;
        let kick = Kick { dest_len: kick.dest_len & !abi::KICK_DONTWAIT, ..kick };
        if kick.dest_len != 0 && kick.dest_len as usize != size_of::<SockaddrNl>() {
            return Err(Errno::EINVAL);
        }
        if self.rings.tx.is_none() {
            return Err(Errno::EINVAL);
        }
        let kick = Kick { sent: 0, ..kick };
        self.kick = Some(Running {
            id,
            kick,
            left: self.endpoint.kick_frames(),
            sender,
            since: Instant::now(),
            cancelled: false,
            waits,
            nap: FIRST_NAP,
            nap_until: None,
            limit: None,
        });
        Ok(())
    }

    /// Whether the kick has something to do, now.
    pub fn kicks(&self) -> bool {
        self.kick.as_ref().is_some_and(|kick| kick.nap_until.is_none())
    }

    /// The caller of a kick is interrupted.
    pub fn cancel_kick(&mut self, id: u64) {
        if let Some(kick) = self.kick.as_mut().filter(|kick| kick.id == id) {
            kick.cancelled = true;
            kick.nap_until = None;
        }
    }

    /// Sends for the time of a slice. The kick's id and result, once it is over.
    pub fn go_on(&mut self) -> Option<(u64, Result<Vec<u8>, Errno>)> {
        let running = self.kick.as_mut().filter(|kick| kick.nap_until.is_none())?;
        let mut dest = running.kick.dest;
        let mut template = MsgHdr::EMPTY;
        if running.kick.dest_len != 0 {
            template.name = (&raw mut dest).cast();
            template.namelen = running.kick.dest_len;
        }
        if let Some(sender) = &running.sender {
            sender.attach(&mut template);
        }
        let end = Instant::now() + SLICE;
        let control = self.endpoint.control();
        let socket = Sifted::new(self.socket.raw(), self.sifter.as_deref(), control, self.rings.rx.is_some());
        let socket = Screened::new(socket, self.socket.screen());
        let (mut patient, has_slept) = (running.waits, running.limit.is_some());
        let outcome = loop {
            // A kick of ordinary length is not cut short by a signal that came in the middle of it; one that sleeps is.
            if running.cancelled && (has_slept || running.since.elapsed() >= LONG) {
                break if running.kick.sent == 0 { Err(Errno::EINTR) } else { Ok(()) };
            }
            self.endpoint.on_full.store(if patient { full::STAYS } else { full::GOES }, Ordering::Relaxed);
            let (left, flags) = (&mut running.left, libc::MSG_DONTWAIT as u32);
            // SAFETY: the template points to locals that outlive the call.
            match unsafe { self.endpoint.kick_part(&socket, self.pid, &template, flags, left, 1) } {
                Ok(sent) => running.kick.sent += sent as u64,
                Err(error) => break Err(os(error)),
            }
            let now = Instant::now();
            let after = |time: Option<Duration>| time.map(|time| now + time);
            if self.endpoint.on_full.load(Ordering::Relaxed) == full::STAYED {
                let limit = match running.limit.map_or_else(|| self.socket.send_time_limit().map(after), Ok) {
                    Ok(limit) => limit,
                    // Not for ever, where nobody has said so: the frame stays.
                    Err(errno) => break if running.kick.sent == 0 { Err(errno) } else { Ok(()) },
                };
                running.limit = Some(limit);
                if limit.is_none_or(|limit| now < limit) {
                    running.nap_until = Some(limit.map_or(now + running.nap, |limit| limit.min(now + running.nap)));
                    running.nap = (running.nap * 2).min(LAST_NAP);
                    return None;
                }
                // Once more, without patience: the frame goes, one way or the other.
                patient = false;
                continue;
            }
            running.nap = FIRST_NAP;
            if running.left == 0 {
                break Ok(());
            }
            if now >= end {
                return None;
            }
        };
        let Running { id, kick, .. } = self.kick.take()?;
        Some((id, outcome.map(|()| abi::bytes(&kick).to_vec())))
    }
}
