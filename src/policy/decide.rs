//! Granted, or not and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use super::catalog::{self, BATCH_BEGIN, BATCH_END, Family, Message, Number};
use super::config::{Group, Policy, Rule};
use super::generic::GenericIds;
use super::sieve::{self, About, Pattern};
use super::subject::Subject;
use super::wire::{FIRST_TYPE, Flaw, Msg, messages};

/// A datagram that may leave with the daemon's rights: exactly these bytes were judged, and nobody else can change them.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    bytes: Vec<u8>,
    /// The rules that grant it.
    pub rules: Vec<String>,
    /// What the socket's sieve has to know before it is sent.
    pub notes: Vec<u8>,
}

impl Granted {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A datagram that is not granted.
#[derive(Debug, PartialEq, Eq)]
pub struct NotGranted {
    /// As it was given, for whoever sends it with other rights.
    pub bytes: Vec<u8>,
    pub why: Why,
}

/// Why something is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Policy grants nothing of this family.
    Family(u32),
    /// It goes to another socket than the kernel's.
    Destination,
    /// Control messages alone: there is nothing to grant.
    Nothing,
    /// Policy has not understood it: which message, and what.
    NotUnderstood(usize, Option<&'static str>, Flaw),
    /// It is understood, and no rule covers it.
    NoRule(Wanted),
    /// A rule covers it, and has been used too often.
    Rate(String),
}

/// One message or membership that somebody wants, in a form that rules can be made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub family: &'static str,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Send {
        message: &'static str,
        queue: Option<u16>,
        log_group: Option<u16>,
    },
    Join(String),
    /// To be told this; `rule` let what brings it happen, and does not name it.
    Receive {
        message: &'static str,
        rule: Option<String>,
    },
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family={}", self.family)?;
        match &self.what {
            What::Send { message, queue, log_group } => {
                write!(f, " send={message}")?;
                queue.map_or(Ok(()), |queue| write!(f, " queue={queue}"))?;
                log_group.map_or(Ok(()), |group| write!(f, " log_group={group}"))
            }
            What::Join(group) => write!(f, " join={group}"),
            What::Receive { message, rule } => {
                write!(f, " receive={message}")?;
                rule.as_ref().map_or(Ok(()), |rule| write!(f, " rule={rule:?}"))
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Family(number) => write!(f, "no rule is about the netlink family {number}"),
            Why::Destination => f.write_str("it does not go to the kernel"),
            Why::Nothing => f.write_str("it holds control messages alone"),
            Why::NotUnderstood(0, _, flaw) => write!(f, "not understood: {flaw}"),
            Why::NotUnderstood(at, None, flaw) => write!(f, "message {at} is not understood: {flaw}"),
            Why::NotUnderstood(at, Some(name), flaw) => write!(f, "message {at} ({name}): {flaw}"),
            Why::NoRule(wanted) => write!(f, "no rule grants {wanted}"),
            Why::Rate(rule) => write!(f, "rule {rule:?}: more messages than its rate allows"),
        }
    }
}

/// A message and the number that rules have to allow.
type Known<'a> = (&'static Message, Msg<'a>);

/// Understands all messages of a datagram.
fn understand<'a>(family: &'static Family, datagram: &'a [u8], ids: &GenericIds) -> Result<Vec<Known<'a>>, Why> {
    let all = messages(datagram).map_err(|flaw| Why::NotUnderstood(0, None, flaw))?;
    let netfilter = family.number == libc::NETLINK_NETFILTER as u32;
    let batch = all.first().filter(|first| netfilter && first.kind == BATCH_BEGIN);
    let batch = batch.map(catalog::batch_of).transpose().map_err(|flaw| Why::NotUnderstood(1, None, flaw))?;
    let mut known = Vec::new();
    for (at, msg) in all.iter().enumerate() {
        let flaw = |name, what: &str| Why::NotUnderstood(at + 1, name, Flaw(what.to_owned()));
        match (batch, msg.kind) {
            (Some(_), BATCH_BEGIN) if at == 0 => continue,
            // The kernel reads no further.
            (Some(_), BATCH_END) if at + 1 == all.len() => continue,
            (Some(_), BATCH_END) => return Err(flaw(None, "more messages stand behind the end of the batch")),
            (Some(subsystem), kind) if kind < FIRST_TYPE || catalog::subsystem(kind) != subsystem => {
                return Err(flaw(None, "a batch holds a message that is not of its subsystem"));
            }
            (Some(_), _) if at + 1 == all.len() => return Err(flaw(None, "the batch has no end")),
            (None, kind) if kind < FIRST_TYPE => continue,
            _ => {}
        }
        let Some(message) = family.identify(msg, ids) else {
            return Err(flaw(None, &format!("type {:#x} of the family {} is not known here", msg.kind, family.name)));
        };
        message.check(msg).map_err(|flaw| Why::NotUnderstood(at + 1, Some(message.name), flaw))?;
        known.push((message, *msg));
    }
    if known.is_empty() { Err(Why::Nothing) } else { Ok(known) }
}

/// What a message wants, for rules and for the log.
fn wanted(family: &'static Family, message: &'static Message, msg: &Msg<'_>) -> Wanted {
    let number = catalog::number_of(msg);
    let (queue, log_group) = match message.number {
        Number::None => (None, None),
        Number::Queue => (number, None),
        Number::LogGroup => (None, number),
    };
    Wanted { family: family.name, what: What::Send { message: message.name, queue, log_group } }
}

/// What arrives by a granted message: its answers, and the packets of what it binds.
fn brings(wanted: &Wanted, msg: &Msg<'_>) -> impl Iterator<Item = (About, u32)> {
    // rtnetlink and generic netlink take either bit of it for a dump.
    const DUMP: u16 = 0x300;
    let answers = if msg.flags & DUMP != 0 { About::Dump } else { About::Request };
    let bound = match &wanted.what {
        What::Send { message: "queue/config", queue, .. } => queue.map(|queue| (About::Queue, u32::from(queue))),
        What::Send { message: "log/config", log_group, .. } => {
            log_group.map(|group| (About::LogGroup, u32::from(group)))
        }
        _ => None,
    };
    [(answers, msg.seq)].into_iter().chain(bound)
}

impl Rule {
    /// Whether it is about this client.
    pub fn is_for(&self, subject: &Subject) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(&subject.uid))
            && self.groups.as_ref().is_none_or(|groups| groups.iter().any(|group| subject.gids.contains(group)))
            && self.cgroups.as_ref().is_none_or(|cgroups| cgroups.iter().any(|cgroup| subject.is_in(cgroup)))
    }

    /// What may arrive by it, for a sieve; everything, without.
    pub fn patterns(&self, ids: &GenericIds) -> Option<Vec<Pattern>> {
        self.receive.as_ref().map(|receive| receive.iter().filter_map(|message| message.pattern(ids)).collect())
    }

    /// What a sieve has to know of a group that it lets somebody join.
    pub fn notes_of_group(&self, group: u32, ids: &GenericIds) -> Vec<u8> {
        self.patterns(ids).map_or_else(Vec::new, |patterns| sieve::note(About::Group, group, &patterns))
    }

    pub fn is_for_all(&self, subjects: &[&Subject]) -> bool {
        subjects.iter().all(|subject| self.is_for(subject))
    }

    /// Whether it grants this, to whomever it is for.
    pub fn grants(&self, wanted: &Wanted) -> bool {
        if self.family.name != wanted.family {
            return false;
        }
        match &wanted.what {
            What::Send { message, queue, log_group } => {
                self.send.iter().any(|known| known.name == *message)
                    && queue.is_none_or(|queue| self.queues.contains(queue))
                    && log_group.is_none_or(|group| self.log_groups.contains(group))
            }
            What::Join(group) => self.join.iter().any(|known| match known {
                Group::Known(_, name) => name == group,
                Group::Generic(family, name) => group.split_once('/') == Some((family, name)),
            }),
            What::Receive { .. } => false,
        }
    }
}

impl Policy {
    /// The first rule that grants this to all of these: whoever asks, and whoever opened what he asks through.
    pub fn rule_for(&self, subjects: &[&Subject], wanted: &Wanted) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.grants(wanted) && rule.is_for_all(subjects))
    }

    /// Whether any rule grants all of these something of a family.
    pub fn has_grants(&self, subjects: &[&Subject], family: u32) -> bool {
        self.rules.iter().any(|rule| rule.family.number == family && rule.is_for_all(subjects))
    }

    /// Judges a datagram that a client sends.
    pub fn judge(
        &self,
        subjects: &[&Subject],
        family: u32,
        to_kernel: bool,
        bytes: Vec<u8>,
        ids: &GenericIds,
        now: Instant,
    ) -> Result<Granted, NotGranted> {
        match self.rules_of(subjects, family, to_kernel, &bytes, ids, now) {
            Ok((rules, notes)) => Ok(Granted { bytes, rules, notes }),
            Err(why) => Err(NotGranted { bytes, why }),
        }
    }

    fn rules_of(
        &self,
        subjects: &[&Subject],
        number: u32,
        to_kernel: bool,
        bytes: &[u8],
        ids: &GenericIds,
        now: Instant,
    ) -> Result<(Vec<String>, Vec<u8>), Why> {
        let family = catalog::family_of(number).ok_or(Why::Family(number))?;
        if !to_kernel {
            return Err(Why::Destination);
        }
        let known = understand(family, bytes, ids)?;
        let (mut uses, mut notes) = (vec![0usize; self.rules.len()], BTreeMap::<_, BTreeSet<u32>>::new());
        for (message, msg) in known {
            let wanted = wanted(family, message, &msg);
            let (at, rule) = self.rule_for(subjects, &wanted).ok_or_else(|| Why::NoRule(wanted.clone()))?;
            if rule.receive.is_some() {
                for (about, number) in brings(&wanted, &msg) {
                    notes.entry((at, about)).or_default().insert(number);
                }
            }
            if let Some(count) = uses.get_mut(at) {
                *count += 1;
            }
        }
        // Of several, whoever asks is the last.
        let uid = subjects.last().map_or(0, |subject| subject.uid);
        let mut names = Vec::new();
        for (at, (rule, count)) in self.rules.iter().zip(uses).enumerate().filter(|(_, (_, count))| *count != 0) {
            if rule.rate.is_some_and(|rate| !self.rates.take(at, uid, rate, count, now)) {
                return Err(Why::Rate(rule.name.clone()));
            }
            names.push(rule.name.clone());
        }
        let notes = notes.into_iter().flat_map(|((at, about), numbers)| {
            let patterns = self.rules.get(at).and_then(|rule| rule.patterns(ids)).unwrap_or_default();
            sieve::notes(about, &numbers.into_iter().collect::<Vec<_>>(), &patterns)
        });
        Ok((names, notes.collect()))
    }

    /// The membership that a client wants, in a form that rules can be made of.
    pub fn wants_to_join(number: u32, group: u32, ids: &GenericIds) -> Result<Wanted, Why> {
        let family = catalog::family_of(number).ok_or(Why::Family(number))?;
        let name = match ids.group(group).filter(|_| family.number == libc::NETLINK_GENERIC as u32) {
            Some((family, group)) => format!("{family}/{group}"),
            None => match family.groups.iter().find(|(known, _)| *known == group) {
                Some((_, name)) => (*name).to_owned(),
                None => {
                    let what = format!("group {group} of the family {} is not known here", family.name);
                    return Err(Why::NotUnderstood(0, None, Flaw(what)));
                }
            },
        };
        Ok(Wanted { family: family.name, what: What::Join(name) })
    }

    /// What a datagram wants, and what arrives by that, as far as it is understood: for the audit.
    pub fn wants(family: u32, bytes: &[u8], ids: &GenericIds) -> Result<BTreeMap<Wanted, BTreeSet<(About, u32)>>, Why> {
        let family = catalog::family_of(family).ok_or(Why::Family(family))?;
        let mut all = BTreeMap::<_, BTreeSet<_>>::new();
        for (message, msg) in understand(family, bytes, ids)? {
            let wanted = wanted(family, message, &msg);
            let brought = brings(&wanted, &msg).collect::<Vec<_>>();
            all.entry(wanted).or_default().extend(brought);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
