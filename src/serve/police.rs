//! Policy at work: what a client sends is judged before it is sent, where there is a policy.
//!
//! The bytes are judged here, in the front, as a copy: those of a `write` come with it, those of a TX frame are taken from the
//! ring by the worker, once. What policy grants is sent by the *grantor* (`worker/lent.rs`), a worker with `CAP_NET_ADMIN` in
//! the daemon's own place, on a duplicate of the client's socket, to the kernel. Everything else is sent by the client's own
//! worker with the client's own rights, or refused.
//!
//! A grant is for whoever makes the request *and* for whoever opened the node: a program with grants that writes to an open
//! file it was handed lends them to nobody, and one that hands an open file on gives none away.

mod heard;
mod join;
mod kick;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cuse_rs::{Caller, Errno};
use nlmmap_ring::sys::SockaddrNl;

use super::abi;
use super::file::{File, bytes_of};
use super::grants::{Errand, Judge};
use super::worker::wire::{Head, op};
use super::workers::Then;
use crate::policy::Policy;
use crate::policy::config::Unmatched;
use crate::policy::decide::{Granted, Wanted, Why};

/// The part of a message that a worker looks at before somebody else sends it.
const BEGINNING: usize = 16;

/// Where a message was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// In the argument of a call: the worker has not seen it.
    Call,
    /// In the TX ring, from where the worker has taken it.
    Ring,
}

/// What happens when a message has been sent, or not.
type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

impl File {
    /// What this request is judged by; none when policy has nothing to say about it.
    pub fn judge(&self, caller: &Caller) -> Option<Judge> {
        self.police.judge(self.family(), caller)
    }

    /// Sends a message as far as policy or the client's own rights go. Does not wait.
    fn send_judged(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: Vec<u8>,
        origin: Origin,
        done: Done,
    ) {
        let (file, judge, caller) = (self.clone(), judge.clone(), *caller);
        let job = move || file.judge_and_send(&judge, &caller, dest, data, origin, done);
        self.police.grants.judge_later(caller.uid, Box::new(job));
    }

    fn judge_and_send(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: Vec<u8>,
        origin: Origin,
        done: Done,
    ) {
        let (grants, family) = (&self.police.grants, self.family().unwrap_or(u32::MAX));
        let elsewhere = self.police.elsewhere.load(Ordering::Relaxed);
        let to_kernel = dest.map_or(!elsewhere, |dest| dest.portid == 0 && dest.groups == 0);
        let ids = if family == libc::NETLINK_GENERIC as u32 { grants.ids() } else { Arc::default() };
        let not = match judge.send(family, to_kernel, data, &ids) {
            Ok(granted) => {
                let notes = if grants.audit {
                    self.listen(judge, family, granted.bytes(), &ids)
                } else {
                    granted.notes.clone()
                };
                return self.send_granted(caller.uid, granted, notes, origin, done);
            }
            Err(not) => not,
        };
        let mut notes = Vec::new();
        if grants.audit {
            match Policy::wants(family, &not.bytes, &ids) {
                Ok(wants) if to_kernel => {
                    wants.keys().for_each(|wanted| grants.note(judge, wanted));
                    notes = self.listen(judge, family, &not.bytes, &ids);
                }
                Ok(_) | Err(Why::Nothing) => {}
                Err(why) => {
                    let shown = Wanted::nameless(family);
                    if grants.told.is_new(&judge.caller, &shown) {
                        let uid = judge.caller.uid;
                        tracing::info!(uid, family, "policy audit, never granted: {why}; of this family told once");
                    }
                }
            }
        } else if judge.policy.unmatched == Unmatched::Deny && not.why != Why::Nothing {
            super::log::refused(&self.client, format_args!("a message is not sent: {}", not.why));
            if !to_kernel {
                return done(Err(Errno::EPERM));
            }
            let then: Then = Box::new(move |answer| done(bytes_of(answer).map(drop)));
            return self.ask(self.head(op::REFUSE, 0, 0), not.bytes, then);
        }
        let dest_len = if dest.is_some() { size_of::<SockaddrNl>() as u32 } else { 0 };
        let mut bytes = abi::bytes(&abi::Send { dest: dest.unwrap_or_default(), dest_len, flags: 0 }).to_vec();
        bytes.extend_from_slice(&not.bytes);
        let mut then: Then = Box::new(move |answer| done(bytes_of(answer).map(drop)));
        if !notes.is_empty() {
            let sending = self.police.grants.announce(&mut notes);
            self.hear_by(notes);
            let (file, sent) = (self.clone(), then);
            then = Box::new(move |answer| {
                let then: Then = Box::new(move |_| sent(answer));
                file.ask(file.head(op::SERVICE, u64::from(sending), 0), Vec::new(), then);
            });
        }
        self.act(caller, self.head(op::WRITE, 0, 0), bytes, Vec::new(), then);
    }

    /// The grantor gets a duplicate of the socket, if it has none, and then `bytes` with `head`, when it is this user's turn.
    ///
    /// `beginning` is for the worker, if it has not seen the message; `notes` are for its sieve.
    fn lend(
        self: &Arc<File>,
        uid: u32,
        beginning: Option<Vec<u8>>,
        notes: &[u8],
        head: Head,
        bytes: Vec<u8>,
        done: Done,
    ) {
        let grantor = match self.police.grants.grantor() {
            Ok(grantor) => grantor,
            Err(errno) => return done(Err(errno)),
        };
        let (file, number) = (self.clone(), grantor.worker.number());
        let is_lent = self.police.lent.load(Ordering::Acquire) == number;
        let grant = move |socket: Option<OwnedFd>, done: Done| {
            let grants = file.police.grants.clone();
            let errand: Errand = Box::new(move |pass| {
                let workers = file.workers();
                if let Some(socket) = socket {
                    let family = u64::from(file.family().unwrap_or(u32::MAX));
                    // In order: what follows finds it there, or finds it refused.
                    let nothing: Then = Box::new(|_| {});
                    let borrow = file.head(op::BORROW, family, 0);
                    if grantor.worker.ask(workers, borrow, Vec::new(), vec![socket.into()], nothing).is_ok() {
                        file.police.lent.store(number, Ordering::Release);
                    }
                }
                let then: Then = Box::new(move |answer| {
                    drop(pass);
                    done(bytes_of(answer).map(drop));
                });
                if let Err((then, errno)) = grantor.worker.ask(workers, head, bytes, Vec::new(), then) {
                    then(Err(errno));
                }
            });
            grants.in_line(uid, errand);
        };
        if is_lent && beginning.is_none() && notes.is_empty() {
            return grant(None, done);
        }
        // The client's own worker may take its time, and holds up nobody but its clients.
        let then: Then = Box::new(move |answer| match answer {
            Ok(mut packet) if packet.head.error == 0 => grant(packet.fds.pop(), done),
            Ok(packet) => done(Err(Errno::new(packet.head.error))),
            Err(errno) => done(Err(errno)),
        });
        let mut told = beginning.unwrap_or_default();
        let head = self.head(op::SHARE, u64::from(!is_lent), told.len() as u32);
        told.extend_from_slice(notes);
        self.ask(head, told, then);
    }

    fn send_granted(self: &Arc<File>, uid: u32, granted: Granted, mut notes: Vec<u8>, origin: Origin, done: Done) {
        tracing::debug!(handle = self.handle, uid = self.client.uid, rules = ?granted.rules, "granted");
        let sending = self.police.grants.announce(&mut notes);
        let bytes = granted.into_bytes();
        let beginning = (origin == Origin::Call).then(|| bytes.get(..BEGINNING).unwrap_or(&bytes).to_vec());
        let file = self.clone();
        let sent: Done = Box::new(move |result| {
            // What it has brought is in the ring when the call returns, whatever became of it.
            let then: Then = Box::new(move |_| done(result));
            file.ask(file.head(op::SERVICE, u64::from(sending), 0), Vec::new(), then);
        });
        self.lend(uid, beginning, &notes, self.head(op::GRANTED, 0, 0), bytes, sent);
    }

    /// `write`, and `NLMMAP_SEND`.
    pub fn write_judged(
        self: &Arc<File>,
        judge: &Judge,
        caller: &Caller,
        dest: Option<SockaddrNl>,
        data: &[u8],
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        self.send_judged(judge, caller, dest, data.to_vec(), Origin::Call, Box::new(done));
    }

    /// The open file is closed: the grantor lets go of its socket.
    pub fn return_lent(&self) {
        if let Some(grantor) = self.police.lent_to() {
            let nothing: Then = Box::new(|_| {});
            let _ = grantor.worker.ask(self.workers(), self.head(op::RETURN, 0, 0), Vec::new(), Vec::new(), nothing);
        }
    }
}
