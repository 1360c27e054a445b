//! Under `--audit`: what arrives that a rule withholds, or that would arrive by what no rule grants yet.
//!
//! The socket's sieve gets the same notes as always, with a mark on each that says for whom they are and by which rule, and a
//! word that it is to tell and not to take away (`policy::sieve`). What it tells comes from a worker, which may be in its
//! client's hands: it can lie about what its own client is told, and about nobody else.

use std::sync::Arc;

use crate::policy::Policy;
use crate::policy::audit::{self, Told};
use crate::policy::catalog;
use crate::policy::decide::{Wanted, What};
use crate::policy::generic::GenericIds;
use crate::policy::sieve::{self, About, Heard};
use crate::policy::subject::Subject;
use crate::serve::file::File;
use crate::serve::grants::Judge;
use crate::serve::worker::wire::op;

impl File {
    /// Notes about what a datagram brings.
    pub fn listen(&self, judge: &Judge, family: u32, bytes: &[u8], ids: &GenericIds) -> Vec<u8> {
        let wants = Policy::wants(family, bytes, ids).unwrap_or_default();
        wants.into_iter().flat_map(|(wanted, brought)| self.listen_by(judge, &wanted, brought, ids)).collect()
    }

    /// Notes about what a client's own want brings: nothing to hear where a rule withholds nothing.
    pub fn listen_by(
        &self,
        judge: &Judge,
        wanted: &Wanted,
        brought: impl IntoIterator<Item = (About, u32)>,
        ids: &GenericIds,
    ) -> Vec<u8> {
        let rule = judge.rule(wanted);
        let Some(mut patterns) = rule.map_or_else(|| Some(Vec::new()), |rule| rule.patterns(ids)) else {
            return Vec::new();
        };
        patterns.extend(self.police.marks.of(&judge.caller, rule.map(|rule| rule.name.as_str())));
        let notes = brought.into_iter().flat_map(|(about, number)| sieve::note(about, number, &patterns));
        sieve::note(About::Audit, 0, &[]).into_iter().chain(notes).collect()
    }

    /// Tells the socket's sieve, before what comes next is done there.
    pub fn hear_by(self: &Arc<File>, notes: Vec<u8>) {
        if !notes.is_empty() {
            self.ask(self.head(op::SHARE, 0, 0), notes, Box::new(|_| {}));
        }
    }

    /// What a sieve has heard.
    pub fn heard(&self, bytes: &[u8]) {
        let grants = &self.police.grants;
        let Some(family) = self.family().and_then(catalog::family_of).filter(|_| grants.audit) else {
            return;
        };
        let ids = if family.number == libc::NETLINK_GENERIC as u32 { grants.ids() } else { Arc::default() };
        for heard in Heard::read(bytes) {
            let Some((subject, rule)) = self.police.marks.get(heard.mark) else { continue };
            let known = family.received.iter().find(|m| m.pattern(&ids).is_some_and(|pattern| pattern.is_about(heard)));
            match known {
                Some(message) => {
                    let wanted = Wanted { family: family.name, what: What::Receive { message: message.name, rule } };
                    tell(&grants.told, &subject, &wanted, || audit::line(&subject, &wanted));
                }
                None => tell(&grants.told, &subject, &Wanted::nameless_message(family.number, heard.kind()), || {
                    let (uid, family, kind) = (subject.uid, family.name, heard.kind());
                    format!(
                        "policy audit, no rule can name it: uid={uid} family={family} is told a message of type {kind:#x}"
                    )
                }),
            }
        }
    }
}

fn tell(told: &Told, subject: &Subject, wanted: &Wanted, line: impl FnOnce() -> String) {
    if told.is_new(subject, wanted) {
        tracing::info!("{}", line());
    }
}
