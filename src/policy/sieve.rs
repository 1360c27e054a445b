//! What a client is told of what it got by a grant: messages that the rule does not name for receive do not arrive.
//!
//! By a grant arrives: what is sent to a group that was joined by one, the packets of a queue or log group that was bound by
//! one, and the answers to requests that were sent by one. Everything else the client could have got itself, and passes.
//! Where it cannot be told which rule an answer belongs to, every rule has to let it through.
//!
//! A sieve of an audit takes nothing away: it notes what it would have, and by which rule, once each.

use std::collections::{BTreeMap, BTreeSet};

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

    /// No message, but whose rule it is, for an audit: control messages, which have this type, are never judged.
    pub const fn mark(number: u8) -> Pattern {
        Pattern::first(MARK, number)
    }

    fn is_mark(self) -> bool {
        self.0 >> 16 == u32::from(MARK)
    }

    /// Whether it is about this, of what an audit has heard.
    pub fn is_about(self, heard: Heard) -> bool {
        self.0 >> 16 == heard.what >> 16 && (self.0 & ANY != 0 || self.0 & 0xff == heard.what & 0xff)
    }

    fn matches(self, kind: u16, payload: &[u8]) -> bool {
        let first = payload.first().map(|first| Pattern::first(kind, *first));
        self == Pattern::kind(kind) || Some(self) == first
    }
}

const MARK: u16 = 1;

/// A message that arrived in an audit, and that a rule would have withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    /// The rule's mark; 0 for one without.
    pub mark: u8,
    /// Type, and first byte behind the header.
    what: u32,
}

impl Heard {
    fn new(mark: u8, kind: u16, first: u8) -> Heard {
        Heard { mark, what: u32::from(kind) << 16 | u32::from(first) }
    }

    pub fn kind(self) -> u16 {
        (self.what >> 16) as u16
    }

    /// From what a sieve has told; at most as many as it may tell.
    pub fn read(bytes: &[u8]) -> impl Iterator<Item = Heard> {
        let word = |bytes: &[u8; 8], at| wire::u32_at(bytes, at).unwrap_or_default();
        let all = bytes.as_chunks::<8>().0.iter().take(MOST_HEARD);
        all.map(move |bytes| Heard { mark: word(bytes, 0) as u8, what: word(bytes, 4) })
    }

    fn bytes(self) -> impl Iterator<Item = u8> {
        u32::from(self.mark).to_ne_bytes().into_iter().chain(self.what.to_ne_bytes())
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
    /// An audit: everything arrives, and is noted.
    Audit,
}

const ALL: [About; 8] = [
    About::Group,
    About::Queue,
    About::LogGroup,
    About::Request,
    About::Dump,
    About::Sending,
    About::Everything,
    About::Audit,
];

/// Rules with `receive` at one socket; of more, what they grant does not arrive.
pub const MOST_RULES: usize = 64;
/// Requests, dumps and sendings that are told apart.
const MOST: usize = 1024;
/// What an audit hears at one socket, and tells apart.
const MOST_HEARD: usize = 1024;

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
    audit: bool,
    heard: BTreeSet<Heard>,
    /// Of that, what nobody has been told of yet.
    untold: Vec<Heard>,
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
        match about {
            About::Audit => return self.audit = true,
            About::Everything => self.everything = true,
            _ => {}
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
        let mut bytes = if self.audit { note(About::Audit, 0, &[]) } else { Vec::new() };
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

    /// The rules that a message might have come by, and that do not let it through.
    fn refusing(&self, netfilter: bool, group: u32, kind: u16, seq: u32, payload: &[u8]) -> Vec<usize> {
        let one = |about, number| self.rule(about, number).filter(|rule| !self.lets(*rule, kind, payload));
        if kind < FIRST_TYPE {
            return Vec::new();
        }
        if group != 0 {
            return one(About::Group, group).into_iter().collect();
        }
        if netfilter && matches!(kind, QUEUE_PACKET | LOG_PACKET) {
            let about = if kind == QUEUE_PACKET { About::Queue } else { About::LogGroup };
            // `res_id` of `struct nfgenmsg`, in network order.
            let number = payload.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
            return one(about, number.into()).into_iter().collect();
        }
        let known = one(About::Request, seq).into_iter().chain(one(About::Dump, seq));
        let any = (0..self.rules.len()).filter(|rule| self.everything && !self.lets(*rule, kind, payload));
        known.chain(any).collect()
    }

    /// Whether a message goes that these rules refuse; in an audit none does, and each is noted.
    fn goes(&mut self, refusing: &[usize], kind: u16, first: u8) -> bool {
        if !self.audit {
            return !refusing.is_empty();
        }
        for rule in refusing {
            let patterns = self.rules.get(*rule).map_or(&[][..], Vec::as_slice);
            let mark = patterns.iter().find(|pattern| pattern.is_mark()).map_or(0, |pattern| pattern.0 as u8);
            let heard = Heard::new(mark, kind, first);
            if self.heard.len() < MOST_HEARD && self.heard.insert(heard) {
                self.untold.push(heard);
            }
        }
        false
    }

    /// What an audit has heard since the last time, for [`Heard::read`].
    pub fn take_heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.untold).into_iter().flat_map(Heard::bytes).collect()
    }

    /// Takes out of a datagram what may not arrive: how many bytes are left at its beginning, and how many messages are gone.
    /// `cut`: it was longer than there was room for.
    pub fn sift(&mut self, family: u32, (portid, group): (u32, u32), bytes: &mut [u8], cut: bool) -> (usize, u64) {
        // From another program, and not to a group: nobody's grant.
        if portid != 0 && group == 0 {
            return (bytes.len(), 0);
        }
        if family == libc::NETLINK_KOBJECT_UEVENT as u32 {
            let word = word_of(bytes);
            let refuses = |rule: &usize| word.is_none_or(|word| !self.lets(*rule, 0, &[word]));
            let refusing: Vec<usize> = self.rule(About::Group, group).into_iter().filter(refuses).collect();
            let goes = self.goes(&refusing, 0, word.unwrap_or(u8::MAX));
            return if goes { (0, 1) } else { (bytes.len(), 0) };
        }
        let netfilter = family == libc::NETLINK_NETFILTER as u32;
        let (mut at, mut kept, mut gone) = (0, 0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let header = (wire::u32_at(rest, 0), wire::u16_at(rest, 4), wire::u32_at(rest, 8));
            let (Some(len), Some(kind), Some(seq)) = header else {
                // Not a message; of a cut one so little tells nothing.
                gone += u64::from(!cut && !self.audit);
                break;
            };
            let len = len as usize;
            let whole = (wire::HEADER..=rest.len()).contains(&len);
            if !whole && !cut {
                gone += u64::from(!self.audit);
                break;
            }
            let len = if whole { len.next_multiple_of(4).min(rest.len()) } else { rest.len() };
            let payload = rest.get(wire::HEADER..).unwrap_or_default();
            let refusing = self.refusing(netfilter, group, kind, seq, payload);
            let first = payload.first().copied().unwrap_or_default();
            if kind == DONE {
                self.forget(About::Dump, seq);
                self.last_dump = self.last_dump.filter(|last| *last != seq);
            }
            if self.goes(&refusing, kind, first) {
                gone += 1;
            } else {
                bytes.copy_within(at..at + len, kept);
                kept += len;
            }
            at += len;
        }
        // Without a loss not a byte is touched, whatever stands behind the last message.
        if gone == 0 { (bytes.len(), 0) } else { (kept, gone) }
    }
}

/// The place of a kernel event's word.
fn word_of(bytes: &[u8]) -> Option<u8> {
    let word = |word: &str| bytes.strip_prefix(word.as_bytes()).is_some_and(|rest| matches!(rest, [b'@' | 0, ..]));
    WORDS.iter().position(|known| word(known)).map(|place| place as u8)
}

const DONE: u16 = 3;

#[cfg(test)]
mod tests;
