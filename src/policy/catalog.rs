//! The messages and multicast groups that can be granted.

mod diag;
mod generic;
mod netfilter;
pub mod received;
mod route;
mod xfrm;

use super::generic::GenericIds;
use super::schema::Schema;
use super::wire::{Flaw, Msg};
use received::Received;

/// What a grant of a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// It tells something, and changes nothing.
    Reads,
    /// It acts on the queue or log group that it names, and on nothing else.
    Numbered,
    /// It changes something for all who share the network namespace: what.
    Changes(&'static str),
}

/// The number in a message that a rule has to allow as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    None,
    /// Of an NFQUEUE.
    Queue,
    /// Of an NFLOG group.
    LogGroup,
}

type Extra = fn(&Msg<'_>) -> Result<(), Flaw>;

/// A message that is known.
#[derive(Debug)]
pub struct Message {
    /// As in a configuration.
    pub name: &'static str,
    /// As in the kernel's headers; a configuration may say it as well.
    pub uapi: &'static str,
    pub risk: Risk,
    pub number: Number,
    /// Why it can be named, and never granted.
    pub never: Option<&'static str>,
    /// Bytes of its fixed part.
    pub header: usize,
    pub attrs: &'static Schema,
    extra: Option<Extra>,
}

impl Message {
    const fn new(name: &'static str, uapi: &'static str, header: usize, attrs: &'static Schema, risk: Risk) -> Message {
        Message { name, uapi, risk, number: Number::None, never: None, header, attrs, extra: None }
    }

    const fn numbered(mut self, number: Number) -> Message {
        self.number = number;
        self
    }

    const fn never(mut self, why: &'static str) -> Message {
        self.never = Some(why);
        self
    }

    const fn extra(mut self, check: Extra) -> Message {
        self.extra = Some(check);
        self
    }

    /// Checks that all of a message is understood.
    pub fn check(&self, msg: &Msg<'_>) -> Result<(), Flaw> {
        const DUMP: u16 = 0x300;
        if let Some(why) = self.never {
            return Err(Flaw(format!("{why}, and is never granted")));
        }
        if let Some(extra) = self.extra {
            extra(msg)?;
        }
        if msg.payload.len() >= self.header {
            return self.attrs.check(msg.payload.get(self.header.next_multiple_of(4)..).unwrap_or_default());
        }
        // What the kernel takes for a dump from clients older than the fixed part.
        if self.risk == Risk::Reads && msg.flags & DUMP == DUMP && !msg.payload.is_empty() {
            return Ok(());
        }
        Err(Flaw(format!("its fixed part has {} bytes of {}", msg.payload.len(), self.header)))
    }
}

/// A netlink family.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub number: u32,
    pub messages: &'static [Message],
    /// What the kernel sends.
    pub received: &'static [Received],
    /// Multicast groups; those of `generic` are named by family and group.
    pub groups: &'static [(u32, &'static str)],
    identify: fn(&Msg<'_>, &GenericIds) -> Option<&'static Message>,
}

impl Family {
    /// Which message it is.
    pub fn identify(&self, msg: &Msg<'_>, ids: &GenericIds) -> Option<&'static Message> {
        (self.identify)(msg, ids)
    }

    /// A message by either of its names.
    pub fn message(&self, name: &str) -> Option<&'static Message> {
        self.messages.iter().find(|m| m.name.eq_ignore_ascii_case(name) || m.uapi.eq_ignore_ascii_case(name))
    }

    /// Whether the kernel sends this here.
    pub fn has(&self, received: &Received) -> bool {
        self.received.iter().any(|known| std::ptr::eq(known, received))
    }

    /// A message of the kernel's by either of its names.
    pub fn received(&self, name: &str) -> Option<&'static Received> {
        self.received.iter().find(|m| m.name.eq_ignore_ascii_case(name) || m.uapi.eq_ignore_ascii_case(name))
    }
}

/// The families, by name.
pub static FAMILIES: [Family; 6] = [
    route::FAMILY,
    netfilter::FAMILY,
    generic::FAMILY,
    diag::FAMILY,
    xfrm::FAMILY,
    // Its messages are the kernel's and udevd's; whoever sends one pretends to be one of them.
    Family {
        name: "kobject_uevent",
        number: libc::NETLINK_KOBJECT_UEVENT as u32,
        messages: &[],
        received: received::UEVENT,
        groups: &[(1, "kernel"), (2, "udev")],
        identify: |_, _| None,
    },
];

/// A family by name.
pub fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name.eq_ignore_ascii_case(name))
}

/// A family by number.
pub fn family_of(number: u32) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.number == number)
}

pub use netfilter::{BATCH_BEGIN, BATCH_END, batch_of, number_of, subsystem};

#[cfg(test)]
mod tests;
