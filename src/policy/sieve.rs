//! What a client is told of what it got by a grant: messages that the rule does not name for receive do not arrive.
//!
//! By a grant arrives: what is sent to a group that was joined by one, the packets of a queue or log group that was bound by
//! one, and the answers to requests that were sent by one. Everything else the client could have got itself, and passes.
//! Where it cannot be told which rule an answer belongs to, every rule has to let it through.

use std::collections::BTreeMap;

use super::catalog::received::{LOG_PACKET, QUEUE_PACKET, WORDS};
use super::wire::{self, FIRST_TYPE};

/// Message types: which, and which first byte behind the header if that matters. Of `kobject_uevent`: 0 and the word's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(u32);

const ANY: u32 = 0x100;

impl Pattern {
    pub const fn kind(kind: u16) -> Pattern {
        Pattern((kind as u32) << 16 | ANY)
    }

    pub const fn first(kind: u16, first: u8) -> Pattern {
        Pattern((kind as u32) << 16 | first as u32)
    }

    fn matches(self, kind: u16, payload: &[u8]) -> bool {
        let first = payload.first().map(|first| Pattern::first(kind, *first));
        self == Pattern::kind(kind) || Some(self) == first
    }
}

/// What a note is about; its number is in the second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A multicast group.
    Group,
    /// An NFQUEUE.
    Queue,
    /// An NFLOG group.
    LogGroup,
    /// A request, by its sequence number.
    Request,
    /// A request that may bring a dump, whose parts come for as long as they are read.
    Dump,
    /// Requests that are on their way, by the number of their sending.
    Sending,
    /// Nothing that arrives is known not to be granted.
    Everything,
}

const ALL: [About; 7] =
    [About::Group, About::Queue, About::LogGroup, About::Request, About::Dump, About::Sending, About::Everything];

/// Rules with `receive` at one socket; of more, what they grant does not arrive.
const MOST_RULES: usize = 64;
/// Requests, dumps and sendings that are told apart.
const MOST: usize = 1024;

/// What is known of one socket.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    rules: Vec<Vec<Pattern>>,
    /// What, its number, and the rule by its place in `rules`.
    notes: BTreeMap<(About, u32), usize>,
    /// How many of them are not for good.
    passing: usize,
    /// The one that may run: a socket has one at a time.
    last_dump: Option<u32>,
    /// Some requests' answers are not told apart from the client's own.
    everything: bool,
}

/// Notes about all of these numbers, for [`Sieve::note`].
pub fn notes(about: About, numbers: &[u32], patterns: &[Pattern]) -> Vec<u8> {
    let about = ALL.iter().position(|known| *known == about).unwrap_or_default() as u32;
    let patterns = patterns.iter().map(|pattern| pattern.0);
    let words = [about, patterns.len() as u32].into_iter().chain(patterns);
    let words = words.chain([numbers.len() as u32]).chain(numbers.iter().copied());
    words.flat_map(u32::to_ne_bytes).collect()
}

/// A note about one.
pub fn note(about: About, number: u32, patterns: &[Pattern]) -> Vec<u8> {
    notes(about, &[number], patterns)
}

impl Sieve {
    /// Takes in notes. What makes no sense ends them.
    pub fn note(&mut self, notes: &[u8]) {
        let mut words = notes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
        while let (Some(about), Some(count)) = (words.next(), words.next()) {
            let Some(about) = ALL.get(about as usize) else { return };
            let patterns: Vec<Pattern> = words.by_ref().take(count as usize).map(Pattern).collect();
            // Of a sending nothing arrives that could be judged.
            let rule = if *about == About::Sending { MOST_RULES } else { self.place_of(patterns) };
            let count = words.next().unwrap_or(0);
            words.by_ref().take(count as usize).for_each(|number| self.add(*about, number, rule));
        }
    }

    fn place_of(&mut self, patterns: Vec<Pattern>) -> usize {
        match self.rules.iter().position(|known| *known == patterns) {
            Some(rule) => rule,
            None if self.rules.len() < MOST_RULES => {
                self.rules.push(patterns);
                self.rules.len() - 1
            }
            // A rule that names nothing.
            None => MOST_RULES,
        }
    }

    fn add(&mut self, about: About, number: u32, rule: usize) {
        if about == About::Everything {
            self.everything = true;
        }
        if about == About::Dump {
            self.last_dump = Some(number);
        }
        let stays = matches!(about, About::Group | About::Queue | About::LogGroup);
        if stays || self.passing < MOST || self.notes.contains_key(&(about, number)) {
            if self.notes.insert((about, number), rule).is_none() && !stays {
                self.passing += 1;
            }
        } else {
            self.everything = true;
        }
    }

    fn forget(&mut self, about: About, number: u32) {
        if self.notes.remove(&(about, number)).is_some() {
            self.passing -= 1;
        }
    }

    /// A sending is over: its answers, but for those of a dump, are in the socket.
    pub fn sent(&mut self, number: u32) {
        self.forget(About::Sending, number);
    }

    /// The socket was seen empty: nothing more comes of requests that are over, and of dumps only the last may run.
    pub fn drained(&mut self) {
        if self.passing == 0 || self.notes.range((About::Sending, 0)..=(About::Sending, u32::MAX)).next().is_some() {
            return;
        }
        let last = self.last_dump;
        self.notes.retain(|(about, number), _| match about {
            About::Group | About::Queue | About::LogGroup => true,
            About::Dump => Some(*number) == last,
            _ => false,
        });
        self.passing = usize::from(last.is_some_and(|last| self.notes.contains_key(&(About::Dump, last))));
        self.everything = last.is_some() && self.passing == 0;
    }

    /// Whether it is about groups that a message's address does not tell.
    pub fn has_far_groups(&self) -> bool {
        self.notes.range((About::Group, 33)..=(About::Group, u32::MAX)).next().is_some()
    }

    /// All of it, for [`Self::note`] elsewhere.
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((about, number), rule) in &self.notes {
            bytes.extend(note(*about, *number, self.rules.get(*rule).map_or(&[][..], Vec::as_slice)));
        }
        if self.everything {
            // With every rule there is, since all have to let it through.
            bytes.extend(self.rules.iter().flat_map(|rule| note(About::Everything, 0, rule)));
        }
        bytes
    }

    fn rule(&self, about: About, number: u32) -> Option<usize> {
        self.notes.get(&(about, number)).copied()
    }

    fn lets(&self, rule: usize, kind: u16, payload: &[u8]) -> bool {
        self.rules.get(rule).is_some_and(|rule| rule.iter().any(|pattern| pattern.matches(kind, payload)))
    }

    /// Whether one message may arrive.
    fn passes(&self, netfilter: bool, group: u32, kind: u16, seq: u32, payload: &[u8]) -> bool {
        if kind < FIRST_TYPE {
            return true;
        }
        if group != 0 {
            return self.rule(About::Group, group).is_none_or(|rule| self.lets(rule, kind, payload));
        }
        if netfilter && matches!(kind, QUEUE_PACKET | LOG_PACKET) {
            let about = if kind == QUEUE_PACKET { About::Queue } else { About::LogGroup };
            // `res_id` of `struct nfgenmsg`, in network order.
            let number = payload.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
            return self.rule(about, number.into()).is_none_or(|rule| self.lets(rule, kind, payload));
        }
        let known = self.rule(About::Request, seq).into_iter().chain(self.rule(About::Dump, seq));
        known.into_iter().all(|rule| self.lets(rule, kind, payload))
            && (!self.everything || (0..self.rules.len()).all(|rule| self.lets(rule, kind, payload)))
    }

    /// Takes out of a datagram what may not arrive: how many bytes are left at its beginning, and how many messages are gone.
    /// `cut`: it was longer than there was room for.
    pub fn sift(&mut self, family: u32, (portid, group): (u32, u32), bytes: &mut [u8], cut: bool) -> (usize, u64) {
        // From another program, and not to a group: nobody's grant.
        if portid != 0 && group == 0 {
            return (bytes.len(), 0);
        }
        if family == libc::NETLINK_KOBJECT_UEVENT as u32 {
            let passes = self.rule(About::Group, group).is_none_or(|rule| self.lets_word(rule, bytes));
            return if passes { (bytes.len(), 0) } else { (0, 1) };
        }
        let netfilter = family == libc::NETLINK_NETFILTER as u32;
        let (mut at, mut kept, mut gone) = (0, 0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let header = (wire::u32_at(rest, 0), wire::u16_at(rest, 4), wire::u32_at(rest, 8));
            let (Some(len), Some(kind), Some(seq)) = header else {
                // Not a message; of a cut one so little tells nothing.
                gone += u64::from(!cut);
                break;
            };
            let len = len as usize;
            let whole = (wire::HEADER..=rest.len()).contains(&len);
            if !whole && !cut {
                gone += 1;
                break;
            }
            let len = if whole { len.next_multiple_of(4).min(rest.len()) } else { rest.len() };
            if kind == DONE {
                self.forget(About::Dump, seq);
                self.last_dump = self.last_dump.filter(|last| *last != seq);
            }
            if self.passes(netfilter, group, kind, seq, rest.get(wire::HEADER..).unwrap_or_default()) {
                bytes.copy_within(at..at + len, kept);
                kept += len;
            } else {
                gone += 1;
            }
            at += len;
        }
        // Without a loss not a byte is touched, whatever stands behind the last message.
        if gone == 0 { (bytes.len(), 0) } else { (kept, gone) }
    }

    fn lets_word(&self, rule: usize, bytes: &[u8]) -> bool {
        let word = |word: &str| bytes.strip_prefix(word.as_bytes()).is_some_and(|rest| matches!(rest, [b'@' | 0, ..]));
        let place = WORDS.iter().position(|known| word(known));
        place.is_some_and(|place| self.lets(rule, 0, &[place as u8]))
    }
}

const DONE: u16 = 3;

#[cfg(test)]
mod tests;
