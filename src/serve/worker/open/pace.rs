//! When a client that is at work is told, and when its socket is looked at: not for every message.
//!
//! A client whose wait was answered with "ready" is *at work*: it goes through the frames it was given, and will come upon those
//! that are put behind them. As long as it has not come to the newest of them, nobody has to be woken for more, and what comes to
//! its socket may wait there for a moment, so that it is taken together. docs/device.md, "Waiting", has the argument why
//! no wake-up is lost by that.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nlmmap_ring::abi::status;
use nlmmap_ring::control::{Control, flag};
use nlmmap_ring::memory::Frames;
use nlmmap_ring::waits::Seen;

use super::{Open, ready};

/// So long messages stay in the socket of a client that is at work, unless it asks before.
const LOOK: Duration = Duration::from_micros(100);
/// So long somebody may be asleep who was told of frames that another one's wait found, or who does not release what he has
/// seen and waits for edges.
const WORD: Duration = Duration::from_millis(1);
/// Whoever has not asked for so long may have gone over to look at the frames alone.
const AT_WORK: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Default)]
pub struct Pace {
    /// Of the last wait; none when there was nothing to be told.
    seen: Option<Seen>,
    /// When somebody has asked last.
    asked: Option<Instant>,
    /// When the socket, which has something, is looked at.
    look: Option<Instant>,
    /// When somebody has to be told at last.
    word: Option<Instant>,
    /// The earlier of the two, once the engine knows.
    pub due: Option<Instant>,
    /// What the engine hears of the socket.
    pub heard: Heard,
}

/// What is heard of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// It has spoken, and is to be emptied.
    Nothing,
    /// The ring is full: messages make no difference.
    Errors,
    /// That it is no longer empty.
    Once,
    /// Each message: it is the client's to empty it, or not emptied for another reason.
    #[default]
    Edges,
}

/// Where a step on an open file has come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its socket, or time.
    Background,
    /// The client, which is awake.
    Client,
    /// The client's wait, which is being answered.
    Wait,
}

impl Open {
    fn newest(&self) -> Option<Seen> {
        let (control, rx) = (self.control()?, self.endpoint.rx()?);
        let head = rx.geometry().wrap(control.rx_head.load(Ordering::Relaxed));
        let (published, errors) = (&control.rx_published, &control.told);
        let (published, errors) = (published.load(Ordering::Relaxed), errors.load(Ordering::Relaxed));
        Some(Seen { newest: rx.geometry().prev(head), published, errors })
    }

    /// Whether the client has not come yet to the frame that was the newest, and holds another message if the ring has gone around.
    fn is_before(&self, seen: &Seen, newest: &Seen) -> bool {
        self.endpoint.rx().is_some_and(|rx| {
            newest.published.wrapping_sub(seen.published) < rx.frame_nr()
                && rx.status(rx.geometry().wrap(seen.newest)) == status::VALID
        })
    }

    fn has_asked(&self, now: Instant) -> bool {
        self.pace.asked.is_some_and(|asked| now.duration_since(asked) < AT_WORK)
    }

    /// Whether who waits now is at work, and has gone through all that there was: he would come back at once for the rest.
    pub fn comes_back(&self) -> bool {
        self.has_asked(Instant::now()) && self.receives() && !self.endpoint.holds_newest()
    }

    /// Whether somebody sleeps who was told that there is nothing.
    pub fn has_sleeper(&self) -> bool {
        self.watch & ready::POLL != 0 && self.pace.seen.is_none()
    }

    /// A wait is answered. `watch`: whoever waits may sleep next.
    pub fn note_wait(&mut self, watch: bool) {
        let (now, is_ready) = (Instant::now(), self.is_ready());
        self.pace.asked = Some(now);
        if !watch {
            return;
        }
        match self.newest().filter(|_| is_ready) {
            Some(seen) => self.note_told(seen, now),
            None => {
                self.note_sleeper(now);
                // Nobody is at work: what comes is taken at once.
                self.pace.look = None;
            }
        }
    }

    /// Somebody was told of what there was.
    pub(super) fn note_told(&mut self, seen: Seen, now: Instant) {
        let before = self.pace.seen.filter(|_| self.watch & ready::POLL != 0);
        if before.is_some_and(|before| seen != before) {
            // Another one may be asleep by now who has not been told of what this one sees.
            self.pace.word.get_or_insert(now + WORD);
        }
        (self.pace.asked, self.pace.seen) = (Some(now), Some(seen));
        self.watch |= ready::POLL;
    }

    /// Somebody may be asleep who is to be told of whatever there is.
    pub(super) fn note_sleeper(&mut self, now: Instant) {
        (self.pace.asked, self.pace.seen, self.pace.word) = (Some(now), None, None);
        self.watch |= ready::POLL;
    }

    /// Whether those who want to be told of readiness, of which there is some, are to be told now.
    pub(super) fn is_time_to_tell(&mut self, from: Cause) -> bool {
        let (Some(seen), Some(newest)) = (self.pace.seen, self.newest()) else {
            return true;
        };
        let is_over = self.pace.word.is_some_and(|word| word <= Instant::now());
        if is_over || seen.errors != newest.errors {
            return true;
        }
        if seen.published == newest.published {
            return false;
        }
        let at_work = from == Cause::Background && self.is_before(&seen, &newest);
        if at_work {
            self.pace.word.get_or_insert_with(|| Instant::now() + WORD);
        }
        !at_work
    }

    /// They are told.
    pub(super) fn told(&mut self) {
        (self.pace.seen, self.pace.word) = (None, None);
    }

    /// The socket has something. Whether that can wait.
    pub fn lets_wait(&mut self) -> bool {
        self.hear_front();
        let now = Instant::now();
        let waits =
            self.has_asked(now) && self.receives() && self.watch & ready::READ == 0 && self.endpoint.holds_newest();
        if waits {
            self.pace.look.get_or_insert(now + LOOK);
        }
        waits
    }

    /// What has to be asked for now, if that is not heard already. Never [`Heard::Once`] of a socket that is not empty: it would speak
    /// at once, again and again.
    pub fn wants_to_hear(&mut self) -> Option<Heard> {
        let is_left = |control: &Control| control.has(flag::BEHIND) || control.has(flag::PLUG);
        let wanted = match self.control().filter(|_| self.receives()) {
            Some(_) if self.is_blocked() => Heard::Errors,
            Some(control) if !is_left(control) => Heard::Once,
            _ => Heard::Edges,
        };
        let known = self.pace.heard;
        let hears = known == wanted || matches!((known, wanted), (Heard::Edges, Heard::Errors) | (Heard::Once, _));
        if self.pump || self.pace.look.is_some() || hears {
            return None;
        }
        self.pace.heard = wanted;
        Some(wanted)
    }

    /// What was asked for could not be had: the socket is looked at after a moment, and it is asked for again.
    pub fn hears_nothing(&mut self) {
        self.pace.heard = Heard::Nothing;
        self.pace.look = Some(Instant::now() + WORD);
    }

    /// The time has come for what [`Self::next_due`] was about. Sets [`Open::pump`] if the socket is to be looked at.
    pub fn is_due(&mut self, now: Instant) {
        self.pace.due = None;
        if self.pace.word.is_some_and(|word| word <= now) && !self.is_ready() {
            // All that there was to be told of has been read.
            self.pace.word = None;
        }
        if self.pace.look.is_some_and(|look| look <= now) {
            // Who has asked since has had everything.
            let again = self.pace.asked.map(|asked| asked + LOOK).filter(|again| *again > now);
            self.pace.look = again.filter(|_| self.endpoint.holds_newest());
            self.pump |= self.pace.look.is_none();
        }
    }

    /// When [`Self::is_due`] is to be asked, if the engine does not know yet.
    pub fn next_due(&mut self) -> Option<Instant> {
        let due = match (self.pace.look, self.pace.word) {
            (Some(look), Some(word)) => Some(look.min(word)),
            (look, word) => look.or(word),
        }?;
        if self.pace.due.is_some_and(|known| known <= due) {
            return None;
        }
        self.pace.due = Some(due);
        self.pace.due
    }
}
