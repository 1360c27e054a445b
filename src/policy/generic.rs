//! The numbers that generic netlink families and their groups have on the running kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::wire::{Builder, Flaw, attributes, messages, u16_at, u32_at};

/// The controller has this number on every kernel.
pub const CONTROLLER: u16 = 0x10;
const GETFAMILY: u8 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Families and groups by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenericIds {
    families: Vec<(u16, String)>,
    /// Number, family, group.
    groups: Vec<(u32, String, String)>,
}

impl GenericIds {
    /// The name of a family.
    pub fn family(&self, number: u16) -> Option<&str> {
        if number == CONTROLLER {
            return Some("nlctrl");
        }
        self.families.iter().find(|(known, _)| *known == number).map(|(_, name)| name.as_str())
    }

    /// All families.
    pub fn families(&self) -> impl Iterator<Item = (u16, &str)> {
        self.families.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// The number of a family.
    pub fn number(&self, name: &str) -> Option<u16> {
        let known = self.families.iter().find(|(_, known)| known == name).map(|(number, _)| *number);
        known.or((name == "nlctrl").then_some(CONTROLLER))
    }

    /// Family and name of a group.
    pub fn group(&self, number: u32) -> Option<(&str, &str)> {
        let found = self.groups.iter().find(|(known, ..)| *known == number);
        found.map(|(_, family, group)| (family.as_str(), group.as_str()))
    }

    /// Asks the kernel, in the caller's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read() -> io::Result<GenericIds> {
        let fd: OwnedFd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(Duration::from_secs(2).as_secs().cast_signed(), 0))?;
        // NLM_F_REQUEST | NLM_F_DUMP
        send(
            fd.as_raw_fd(),
            &Builder::default().message(CONTROLLER, 0x301, &[GETFAMILY, 2, 0, 0]).0,
            MsgFlags::empty(),
        )?;
        let (mut ids, mut part) = (GenericIds::default(), vec![0; 1 << 16]);
        loop {
            let len = recv(fd.as_raw_fd(), &mut part, MsgFlags::empty())?;
            if ids.take(part.get(..len).unwrap_or_default()).map_err(|flaw| io::Error::other(flaw.0))? {
                return Ok(ids);
            }
        }
    }

    /// Takes in a part of the answer. Whether it was the last.
    fn take(&mut self, part: &[u8]) -> Result<bool, Flaw> {
        for msg in messages(part)? {
            match msg.kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    return Err(Flaw("the controller of generic netlink refuses to tell its families".into()));
                }
                _ => {}
            }
            let attrs = attributes(msg.payload.get(4..).unwrap_or_default())?;
            let find = |kind| attrs.iter().find(|attr| attr.kind == kind).map(|attr| attr.payload);
            let (Some(number), Some(name)) = (find(1).and_then(|id| u16_at(id, 0)), find(2).map(text)) else {
                continue;
            };
            self.families.push((number, name.clone()));
            for group in attributes(find(7).unwrap_or_default())? {
                let attrs = attributes(group.payload)?;
                let find = |kind| attrs.iter().find(|attr| attr.kind == kind).map(|attr| attr.payload);
                if let (Some(group), Some(number)) = (find(1).map(text), find(2).and_then(|id| u32_at(id, 0))) {
                    self.groups.push((number, name.clone(), group));
                }
            }
        }
        Ok(false)
    }

    #[cfg(test)]
    pub fn of(families: &[(u16, &str)], groups: &[(u32, &str, &str)]) -> GenericIds {
        GenericIds {
            families: families.iter().map(|(number, name)| (*number, (*name).to_owned())).collect(),
            groups: groups.iter().map(|(number, f, g)| (*number, (*f).to_owned(), (*g).to_owned())).collect(),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_list_is_understood() {
        let ids = GenericIds::read().unwrap();
        assert_eq!(ids.family(CONTROLLER), Some("nlctrl"));
        let (number, ..) =
            ids.groups.iter().find(|(_, family, group)| (&**family, &**group) == ("nlctrl", "notify")).unwrap();
        assert_eq!(ids.group(*number), Some(("nlctrl", "notify")));
        assert_eq!(ids.family(9), None);
    }
}
