//! Kicks that are judged: frame by frame, each copied out of the ring, judged and sent before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cuse_rs::{Caller, Errno, IoctlReply};
use nlmmap_ring::sys::SockaddrNl;

use super::{Done, Origin};
use crate::serve::abi::{self, Kick};
use crate::serve::file::File;
use crate::serve::grants::Judge;
use crate::serve::worker::wire::op;
use crate::serve::workers::Then;

/// A kick that has lasted so long ends early when its caller is interrupted.
const LONG: Duration = Duration::from_millis(250);

impl File {
    /// `NLMMAP_KICK`: frame by frame, each copied, judged and sent before the next.
    pub fn kick_judged(self: &Arc<File>, judge: Judge, caller: &Caller, argument: &[u8], reply: IoctlReply) {
        let kick: Kick = match abi::read::<Kick>(argument) {
            // Nothing waits here: policy grants messages to the kernel, which always has room.
            Some(kick) => Kick { dest_len: kick.dest_len & !abi::KICK_DONTWAIT, ..kick },
            None => return reply.error(Errno::EINVAL),
        };
        if kick.dest_len != 0 && kick.dest_len as usize != size_of::<SockaddrNl>() {
            return reply.error(Errno::EINVAL);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let hook = cancelled.clone();
        reply.on_interrupt(move || hook.store(true, Ordering::Relaxed));
        let frames = self.geometry().get(1).copied().flatten().map_or(0, |ring| ring.nm_frame_nr);
        let kick = Kick { sent: 0, ..kick };
        let since = Instant::now();
        next_frame(
            JudgedKick { file: self.clone(), judge, caller: *caller, kick, left: frames, since, cancelled, reply },
            true,
        );
    }
}

/// A kick that is not over.
struct JudgedKick {
    file: Arc<File>,
    judge: Judge,
    caller: Caller,
    kick: Kick,
    left: u32,
    since: Instant,
    cancelled: Arc<AtomicBool>,
    reply: IoctlReply,
}

impl JudgedKick {
    fn end(self) {
        let _ = self.reply.done(0, abi::bytes(&self.kick));
    }
}

/// Goes on with a kick: takes the next frame, and with that the step after.
fn next_frame(mut kick: JudgedKick, first: bool) {
    if kick.left == 0 && !first {
        return kick.end();
    }
    if kick.cancelled.load(Ordering::Relaxed) && kick.since.elapsed() >= LONG {
        return if kick.kick.sent == 0 { kick.reply.error(Errno::EINTR) } else { kick.end() };
    }
    kick.left = kick.left.saturating_sub(1);
    let (file, caller) = (kick.file.clone(), kick.caller);
    let head = file.head(op::TAKE, 0, 0);
    let then: Then = Box::new(move |answer| {
        let packet = match answer {
            Ok(packet) if packet.head.error == 0 => packet,
            Ok(packet) => return kick.reply.error(Errno::new(packet.head.error)),
            Err(errno) => return kick.reply.error(File::ring_error(errno)),
        };
        if packet.head.value == 0 {
            return kick.end();
        }
        let (file, judge, caller) = (kick.file.clone(), kick.judge.clone(), kick.caller);
        let dest = (kick.kick.dest_len != 0).then_some(kick.kick.dest);
        let len = packet.bytes.len() as u64;
        let done: Done = Box::new(move |result| match result {
            Ok(()) => {
                kick.kick.sent += len;
                next_frame(kick, false);
            }
            Err(errno) => kick.reply.error(errno),
        });
        file.send_judged(&judge, &caller, dest, packet.bytes, Origin::Ring, done);
    });
    // The caller's own worker, as with every kick; afterwards it is there, or where another request has taken it.
    if first {
        file.act(&caller, head, Vec::new(), Vec::new(), then);
    } else {
        file.ask(head, Vec::new(), then);
    }
}
