//! What the front asks of a worker, request by request.

use std::os::fd::AsFd;
use std::time::Instant;

use cuse_rs::Errno;
use nix::errno::Errno as Os;
use nix::sys::epoll::EpollEvent;
use nlmmap_ring::rx::Context;

use super::super::open::notes::Walk;
use super::super::open::pace::{Cause, Heard};
use super::super::open::{Luggage, Open, ready};
use super::super::processor;
use super::super::wire::{self, Head, Packet, flag, op};
use super::{Engine, interest};
use crate::serve::abi;
use crate::serve::socket::Credentials;

impl Engine {
    pub(super) fn request(&mut self, packet: Packet) {
        let Head { op, id, handle, value, error, .. } = packet.head;
        if error != 0 || packet.lacks {
            // It has not come whole.
            let why = if error != 0 { error } else { libc::EMFILE };
            return self.answer(id, Err(Errno::new(why)), 0, &[]);
        }
        match op {
            op::SOCKET | op::ADOPT => {
                let made = self.make(packet);
                self.answer(id, made.map(|()| &[][..]), 0, &[]);
                self.after(handle, Cause::Client);
            }
            op::PING => self.answer(id, Ok(&[]), 0, &[]),
            op::GO_ON => {
                let now = Instant::now();
                if self.passes.granted(now) {
                    self.others = value != 0;
                    if !self.has_company(now) {
                        processor::ask_for(processor::LONG);
                    }
                    // It has woken with short turns, before the front's thread that sent this and whom that had to wake.
                    processor::let_others_go();
                }
            }
            op::BORROW | op::RETURN | op::GRANTED | op::JOIN => {
                let done = self.lent.request(packet);
                self.answer(id, done.map(|()| &[][..]), 0, &[]);
            }
            op::CLOSE => {
                if let Some(open) = self.opens.remove(&handle) {
                    // Somebody else may still have it, to send on.
                    let _ = self.epoll.delete(open.socket().fd());
                }
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::CANCEL => {
                let Some(open) = self.opens.get_mut(&handle) else { return };
                // One behind another kick would begin as if nobody wanted it to end.
                if open.take_back(value) {
                    return self.answer(value, Err(Errno::EINTR), 0, &[]);
                }
                open.cancel_kick(value);
                self.after(handle, Cause::Wait);
            }
            _ => self.on_open(packet),
        }
    }

    fn make(&mut self, packet: Packet) -> Result<(), Errno> {
        let Head { op, handle, value, .. } = packet.head;
        let mut fds = packet.fds.into_iter();
        let mut next = || fds.next().ok_or(Errno::EBADF);
        let mut open = if op == op::SOCKET {
            let wanted = abi::read(&packet.bytes).ok_or(Errno::EINVAL)?;
            Open::make(value != 0, &wanted, self.base, &next()?)?
        } else {
            let (luggage, own): (Luggage, _) = abi::split(&packet.bytes).ok_or(Errno::EINVAL)?;
            let (socket, memory, state) = (next()?, next()?, next()?);
            let mut open = Open::adopt(&luggage, self.base, socket, &memory, &state)?;
            open.unpack(luggage.sieve, own)?;
            open
        };
        let event = EpollEvent::new(interest(Heard::Edges), handle);
        self.epoll.add(open.socket().fd(), event).map_err(|e| Errno::new(e as i32))?;
        open.pace.heard = Heard::Edges;
        let pump = open.pump;
        self.opens.insert(handle, open);
        if pump {
            self.enqueue(handle, true);
        }
        Ok(())
    }

    /// A request of an open file that has its socket.
    pub(super) fn on_open(&mut self, packet: Packet) {
        let Head { op, id, handle, value, flags, pid, .. } = packet.head;
        self.heard(handle);
        let cmd = value as u32;
        let Some(open) = self.opens.get_mut(&handle) else {
            // It was lost on its way here: the front asks for those alone that have a socket.
            return self.answer(id, Err(Errno::new(libc::ENOTCONN)), 0, &[]);
        };
        let aside = match op {
            op::POLL | op::READ | op::TAP => true,
            op::IOCTL => abi::only_asks(cmd),
            _ => false,
        };
        let ids = self.ids;
        let sender = ids.filter(|_| pid != 0).map(|(uid, gid)| Credentials::new(pid, uid, gid));
        if open.kick.is_some() && !aside {
            if open.wait(packet).is_err() {
                self.answer(id, Err(Errno::ENOBUFS), 0, &[]);
            }
            return;
        }
        let watch = flags & flag::WATCH != 0;
        match op {
            op::POLL => {
                open.hear_front();
                let (sleeper, comes_back) = (open.has_sleeper(), open.comes_back());
                open.service(Context::Wait);
                if comes_back {
                    self.fill_on(handle);
                }
                // It is there: no request has come between.
                let Some(open) = self.opens.get_mut(&handle) else { return };
                let events = open.events();
                // Another one's wait may find what somebody sleeps for.
                let who = open.tell(if sleeper { Cause::Client } else { Cause::Wait });
                open.note_wait(watch);
                let is_walked = open.walk() == Walk::On;
                self.answer(id, Ok(&[]), u64::from(events), &[]);
                if who != 0 {
                    self.tell(&Head { op: op::READY, handle, value: who, ..Head::default() }, &[], &[]);
                }
                if is_walked {
                    self.attend(handle);
                }
                return self.after(handle, Cause::Wait);
            }
            op::READ => {
                let mut room = std::mem::take(&mut self.room);
                let most = usize::try_from(value).unwrap_or(0).min(1 << 20);
                room.resize(room.len().max(most), 0);
                let got = open.receive(room.get_mut(..most).unwrap_or_default());
                if watch && got == Err(Errno::EAGAIN) {
                    open.watch |= ready::READ;
                }
                let bytes = got.map(|len| room.get(..len.min(most)).unwrap_or_default());
                self.answer(id, bytes, 0, &[]);
                self.room = room;
            }
            op::WRITE => {
                let sent = open.send(&packet.bytes, sender);
                self.answer(id, sent.map(|_| &[][..]), 0, &[]);
            }
            op::TAKE => {
                let mut room = std::mem::take(&mut self.room);
                let taken = open.take_frame(&mut room);
                let value = u64::from(matches!(taken, Ok(Some(_))));
                let bytes = taken.map(|len| room.get(..len.unwrap_or(0)).unwrap_or_default());
                self.answer(id, bytes, value, &[]);
                self.room = room;
            }
            op::SHARE => {
                let (beginning, notes) = packet.bytes.split_at_checked(flags as usize).unwrap_or((&packet.bytes, &[]));
                open.note_request(beginning);
                if let Err(errno) = open.note_grant(notes) {
                    return self.answer(id, Err(errno), 0, &[]);
                }
                match (value != 0).then(|| open.socket().fd().try_clone()).transpose() {
                    Ok(Some(fd)) => self.answer(id, Ok(&[]), 0, &[fd.as_fd()]),
                    Ok(None) => self.answer(id, Ok(&[]), 0, &[]),
                    Err(error) => self.answer(id, Err(error.into()), 0, &[]),
                }
            }
            op::SERVICE => {
                open.granted(value as u32);
                open.service(Context::Send);
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::TAP => {
                let done = open.tap(packet.fds.first(), value != 0);
                return self.answer(id, done.map(|()| &[][..]), 0, &[]);
            }
            op::REFUSE => {
                open.refuse(&packet.bytes);
                self.answer(id, Ok(&[]), 0, &[]);
            }
            op::IOCTL if cmd == abi::KICK => match open.begin_kick(id, &packet.bytes, sender) {
                Ok(()) => return self.enqueue(handle, true),
                Err(errno) => self.answer(id, Err(errno), 0, &[]),
            },
            op::IOCTL => {
                let laid = open.laid();
                let mut answer = open.ioctl(handle, cmd, &packet.bytes, &packet.fds);
                if matches!(cmd, abi::RX_RING | abi::TX_RING) {
                    // Told whatever became of it: the front keeps the books.
                    let state = open.ring_state();
                    let error = answer.err().map_or(0, |errno| errno.number());
                    let value = u64::from(open.laid() != laid);
                    let head = Head { op: op::ANSWER, error, id, value, ..Head::default() };
                    answer = Ok(Vec::new());
                    self.tell(&head, abi::bytes(&state), &[]);
                } else {
                    self.answer(id, answer.as_deref().map_err(|errno| *errno), 0, &[]);
                }
                drop(answer);
            }
            op::EVICT => {
                // The socket lives on elsewhere, and would go on to be heard of here.
                let _ = self.epoll.delete(open.socket().fd());
                open.leave();
                let bytes = open.pack();
                let head = Head { op: op::ANSWER, id, ..Head::default() };
                match wire::send_waiting(&self.channel, &head, &bytes, &[open.socket().fd().as_fd()]) {
                    Ok(()) => {
                        self.opens.remove(&handle);
                    }
                    Err(Os::EPIPE | Os::ECONNRESET) => self.front_gone = true,
                    // Too many descriptors of this user are on their way, or none is left for what it takes along: it stays.
                    Err(error) => {
                        open.pace.heard = Heard::Nothing;
                        open.pump = true;
                        self.answer(id, Err(Errno::new(error as i32)), 0, &[]);
                        self.enqueue(handle, true);
                    }
                }
                return;
            }
            _ => self.answer(id, Err(Errno::EINVAL), 0, &[]),
        }
        if let Some(open) = self.opens.get_mut(&handle) {
            open.seen();
        }
        self.after(handle, Cause::Client);
    }
}
