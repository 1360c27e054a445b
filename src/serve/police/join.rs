//! Groups that a client joins: by bind, by option, by the ioctl.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cuse_rs::{Caller, Errno, IoctlReply};
use nlmmap_ring::abi::SOL_NETLINK;
use nlmmap_ring::sys::SockaddrNl;

use super::Done;
use crate::policy::Policy;
use crate::policy::config::Unmatched;
use crate::policy::decide::Why;
use crate::policy::sieve::About;
use crate::serve::abi;
use crate::serve::file::File;
use crate::serve::worker::wire::op;

const NETLINK_ADD_MEMBERSHIP: i32 = 1;

impl File {
    /// A change of the socket that policy may have a say in: joining groups. Gives the reply back when it has none.
    pub fn change_judged(
        self: &Arc<File>,
        caller: &Caller,
        cmd: u32,
        argument: &[u8],
        reply: IoctlReply,
    ) -> Option<IoctlReply> {
        if cmd == abi::CONNECT
            && let Some(name) = abi::read::<SockaddrNl>(argument)
        {
            self.police.elsewhere.store(name.portid != 0 || name.groups != 0, Ordering::Relaxed);
        }
        let Some((groups, cmd, argument)) = joins(cmd, argument) else {
            return Some(reply);
        };
        let Some(judge) = self.judge(caller) else {
            return Some(reply);
        };
        let (grants, family) = (&self.police.grants, self.family().unwrap_or(u32::MAX));
        let ids = if family == libc::NETLINK_GENERIC as u32 { grants.ids() } else { Arc::default() };
        let (mut granted, mut notes) = (true, Vec::new());
        for group in groups {
            let wanted = Policy::wants_to_join(family, group, &ids);
            if let (true, Ok(wanted)) = (grants.audit, &wanted) {
                notes.extend(self.listen_by(&judge, wanted, [(About::Group, group)], &ids));
            }
            if let Some(rule) = wanted.as_ref().ok().and_then(|wanted| judge.rule(wanted)) {
                if !grants.audit {
                    notes.extend(rule.notes_of_group(group, &ids));
                }
                continue;
            }
            granted = false;
            match &wanted {
                Ok(wanted) if grants.audit => grants.note(&judge, wanted),
                _ if !grants.audit && judge.policy.unmatched == Unmatched::Deny => {
                    let why = wanted.map_or_else(|why| why, Why::NoRule);
                    crate::serve::log::refused(&self.client, format_args!("a group is not joined: {why}"));
                    reply.error(Errno::EPERM);
                    return None;
                }
                _ => {}
            }
        }
        if !granted {
            self.hear_by(notes);
            return Some(reply);
        }
        let has_ring = self.geometry().first().copied().flatten().is_some();
        let head = self.head(op::JOIN, u64::from(cmd), u32::from(has_ring));
        let done: Done = Box::new(move |result| match result {
            // Undeliverable: then nobody waits for it.
            Ok(()) => drop(reply.done(0, &[])),
            Err(errno) => reply.error(errno),
        });
        self.lend(caller.uid, None, &notes, head, argument, done);
        None
    }
}

/// The groups that an ioctl joins, and the ioctl in the form that the grantor knows; none when it joins none.
fn joins(cmd: u32, argument: &[u8]) -> Option<(Vec<u32>, u32, Vec<u8>)> {
    match cmd {
        abi::BIND => {
            let name: SockaddrNl = abi::read(argument)?;
            let groups: Vec<u32> = (0..32).filter(|bit| name.groups >> bit & 1 != 0).map(|bit| bit + 1).collect();
            (!groups.is_empty()).then(|| (groups, cmd, argument.to_vec()))
        }
        abi::ADD_MEMBERSHIP => Some((vec![abi::read(argument)?], cmd, argument.to_vec())),
        _ if abi::unsized_number(cmd) == abi::SETOPT => {
            let (head, value) = abi::split::<abi::Opt>(argument)?;
            let group = value.first_chunk().copied().map(u32::from_ne_bytes)?;
            let is_join = (head.level, head.name) == (SOL_NETLINK, NETLINK_ADD_MEMBERSHIP);
            is_join.then(|| (vec![group], abi::ADD_MEMBERSHIP, group.to_ne_bytes().to_vec()))
        }
        _ => None,
    }
}
