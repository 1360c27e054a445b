//! Every message of the catalog, by a rule of its own and by all others; every attribute that it may have, at every depth.

use std::time::Instant;

use super::tests::{nf, one, subject};
use super::*;
use crate::policy::catalog::FAMILIES;
use crate::policy::config::tests::policy;
use crate::policy::schema::{Schema, Within};
use crate::policy::wire::{Builder, attribute};

const US: u32 = 1001;
const GENERIC: [&str; 6] = ["nlctrl", "ethtool", "nl80211", "wireguard", "tcp_metrics", "taskstats"];

fn ids() -> GenericIds {
    let families: Vec<_> = GENERIC.iter().enumerate().skip(1).map(|(at, name)| (0x20 + at as u16, *name)).collect();
    GenericIds::of(&families, &[])
}

/// Type and fixed part of a message, found by what it is taken for.
fn example(family: &'static Family, message: &'static Message) -> (u16, Vec<u8>, Vec<Vec<u8>>) {
    let more: Vec<Vec<u8>> = if message.name == "log/family" { vec![attribute(1, &[3])] } else { Vec::new() };
    // Only there the first byte tells messages apart.
    let firsts = if matches!(family.name, "generic" | "sock_diag") { 0..=64u8 } else { 0..=0 };
    for kind in 16..12 << 8 {
        for first in firsts.clone() {
            let mut fixed = vec![0; message.header];
            if let Some(byte) = fixed.first_mut() {
                *byte = first;
            }
            let bytes = one(kind, &fixed, &more);
            let msg = messages(&bytes).unwrap()[0];
            if family.identify(&msg, &ids()).is_some_and(|found| found.name == message.name) {
                return (kind, fixed, more);
            }
        }
    }
    panic!("{} is never recognized", message.name);
}

fn rule(name: &str, family: &Family, send: &[&str]) -> String {
    let send: Vec<_> = send.iter().map(|name| format!("{name:?}")).collect();
    let all: Vec<_> = family.messages.iter().filter(|m| send.contains(&format!("{:?}", m.name))).collect();
    let has = |number| all.iter().any(|message| message.number == number);
    let queues = if has(Number::Queue) { "queues = [\"*\"]\n" } else { "" };
    let groups = if has(Number::LogGroup) { "log_groups = [\"*\"]\n" } else { "" };
    format!(
        "[[policy.rule]]\nname = {name:?}\nusers = [{US}]\nfamily = {:?}\nsend = [{}]\n{queues}{groups}",
        family.name,
        send.join(", ")
    )
}

fn judge(policy: &Policy, uid: u32, family: &Family, bytes: Vec<u8>) -> Result<Vec<String>, String> {
    let before = bytes.clone();
    match policy.judge(&[&subject(uid)], family.number, true, bytes, &ids(), Instant::now()) {
        Ok(granted) => {
            let rules = granted.rules.clone();
            assert_eq!(granted.into_bytes(), before);
            Ok(rules)
        }
        Err(not) => {
            assert_eq!(not.bytes, before);
            Err(not.why.to_string())
        }
    }
}

/// An attribute, and what is wrong with it.
type Wrong = (Vec<u8>, String);

/// Attributes as a schema has them: all that may be there, each with something inside if it may have; and each way to hide one
/// that is not known, or is never granted, at every depth.
fn attributes_of(schema: &Schema, depth: u32) -> (Vec<Vec<u8>>, Vec<Wrong>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (first, last) in schema.leaves {
        good.extend((*first..=*last).map(|kind| attribute(kind, &[0; 4])));
    }
    bad.push((attribute(4000, &[0; 4]), "attribute 4000 is not known here".to_owned()));
    bad.extend(schema.refused.iter().map(|(kind, why)| (attribute(*kind, &[0; 4]), format!("never granted: {why}"))));
    for (kind, within) in schema.within {
        let (inner, each) = match within {
            Within::Attrs(inner) => (inner, false),
            Within::Each(inner) => (inner, true),
            // Lists of next hops and expressions have tests of their own.
            Within::Special(_) => continue,
        };
        if depth == 0 {
            continue;
        }
        let wrap = |inside: &[u8]| {
            let inside = if each { attribute(1, inside) } else { inside.to_vec() };
            [attribute(*kind, &inside), attribute(*kind | 0x8000, &inside)]
        };
        let (its_good, its_bad) = attributes_of(inner, depth - 1);
        good.extend(its_good.iter().flat_map(|inside| wrap(inside)));
        let first = its_good.first().cloned().unwrap_or_default();
        for (inside, why) in its_bad {
            bad.extend(wrap(&inside).map(|bytes| (bytes, why.clone())));
            // Behind one that is good.
            bad.extend(wrap(&[first.clone(), inside].concat()).map(|bytes| (bytes, why.clone())));
        }
    }
    (good, bad)
}

#[test]
fn every_message_is_granted_by_its_name_and_by_no_other() {
    let mut seen = 0;
    for family in FAMILIES.iter().filter(|family| !family.messages.is_empty()) {
        let grantable: Vec<&str> = family.messages.iter().filter(|m| m.never.is_none()).map(|m| m.name).collect();
        let everything = policy(&rule("all", family, &grantable)).unwrap();
        let rest_of_families: String = FAMILIES
            .iter()
            .filter(|other| other.name != family.name && !other.messages.is_empty())
            .map(|other| {
                let names: Vec<_> = other.messages.iter().filter(|m| m.never.is_none()).map(|m| m.name).collect();
                rule(other.name, other, &names)
            })
            .collect();
        let elsewhere = policy(&rest_of_families).unwrap();
        for message in family.messages {
            let (kind, fixed, more) = example(family, message);
            let bytes = one(kind, &fixed, &more);
            let name = message.name;
            let no_rule = |why: String| {
                assert!(why.starts_with(&format!("no rule grants family={} send={name}", family.name)), "{why}")
            };
            if let Some(never) = message.never {
                let why = judge(&everything, US, family, bytes).unwrap_err();
                assert!(why.contains(never), "{name}: {why}");
                continue;
            }
            seen += 1;
            // By its name, by the kernel's name for it, as one of many; for nobody else, and by no rule of other names or families.
            let alone = policy(&rule("r", family, &[name])).unwrap();
            assert_eq!(judge(&alone, US, family, bytes.clone()), Ok(vec!["r".to_owned()]), "{name}");
            let uapi = rule("r", family, &[name]).replace(&format!("[{name:?}]"), &format!("[{:?}]", message.uapi));
            assert_eq!(judge(&policy(&uapi).unwrap(), US, family, bytes.clone()), Ok(vec!["r".to_owned()]), "{uapi}");
            assert_eq!(judge(&everything, US, family, bytes.clone()), Ok(vec!["all".to_owned()]), "{name}");
            no_rule(judge(&alone, 7, family, bytes.clone()).unwrap_err());
            let others: Vec<&str> = grantable.iter().copied().filter(|other| *other != name).collect();
            let without = policy(&rule("others", family, &others)).unwrap();
            no_rule(judge(&without, US, family, bytes.clone()).unwrap_err());
            no_rule(judge(&elsewhere, US, family, bytes.clone()).unwrap_err());
            // Beside another one, before it and behind it: both, or none.
            for other in family.messages.iter().filter(|other| other.never.is_none() && other.name != name).take(3) {
                let (kind, fixed, more) = example(family, other);
                let beside = one(kind, &fixed, &more);
                let both = [[bytes.clone(), beside.clone()].concat(), [beside, bytes.clone()].concat()];
                for both in both {
                    assert!(judge(&everything, US, family, both.clone()).is_ok(), "{name} {}", other.name);
                    let why = judge(&alone, US, family, both.clone()).unwrap_err();
                    assert!(why.contains(&format!("send={}", other.name)), "{why}");
                    no_rule(judge(&without, US, family, both).unwrap_err());
                }
            }
        }
    }
    assert!(seen > 110, "{seen}");
}

#[test]
fn every_attribute_of_every_message_is_understood_and_none_hides() {
    let (mut understood, mut hidden) = (0, 0);
    for family in FAMILIES.iter().filter(|family| !family.messages.is_empty()) {
        for message in family.messages.iter().filter(|message| message.never.is_none() && message.name != "log/family")
        {
            let alone = policy(&rule("r", family, &[message.name])).unwrap();
            let (kind, fixed, _) = example(family, message);
            let (good, bad) = attributes_of(message.attrs, 6);
            let ask = |attrs: &[Vec<u8>]| judge(&alone, US, family, one(kind, &fixed, attrs));
            for attr in &good {
                ask(std::slice::from_ref(attr)).unwrap_or_else(|why| panic!("{}: {attr:?}: {why}", message.name));
                understood += 1;
            }
            for (attr, why) in bad {
                for attrs in [vec![attr.clone()], [good.iter().take(1).cloned().collect(), vec![attr.clone()]].concat()]
                {
                    let said = ask(&attrs).expect_err(message.name);
                    assert!(said.contains(&why), "{}: {attrs:?}: {said}", message.name);
                    hidden += 1;
                }
                // A length that ends before it does, and one that goes on behind it.
                for (lie, at) in [(3u16, 0), (4000, 0)] {
                    let mut cut = attr.clone();
                    cut[at..at + 2].copy_from_slice(&lie.to_ne_bytes());
                    let said = ask(&[cut]).expect_err(message.name);
                    assert!(said.contains(&format!("an attribute has length {lie}")), "{}: {said}", message.name);
                }
            }
            // Every message but the dumps of old clients has its fixed part whole.
            for len in 0..fixed.len() {
                let said = judge(&alone, US, family, Builder::default().message(kind, 1, &fixed[..len]).0);
                assert!(said.is_err(), "{}: {len} bytes of {}", message.name, fixed.len());
            }
        }
    }
    assert!(understood > 900 && hidden > 1000, "{understood} {hidden}");
}

/// In a batch each message of nftables is judged as outside, wherever it stands.
#[test]
fn every_message_of_a_batch_is_judged() {
    let family = catalog::family("netfilter").unwrap();
    let all: Vec<_> = family.messages.iter().filter(|message| message.name.starts_with("nftables/")).collect();
    let table = all.iter().find(|message| message.name == "nftables/newtable").unwrap();
    let (begin, end) =
        (Builder::default().message(BATCH_BEGIN, 1, &nf(10)).0, Builder::default().message(BATCH_END, 1, &nf(10)).0);
    let bytes_of = |message: &'static Message| {
        let (kind, fixed, more) = example(family, message);
        one(kind, &fixed, &more)
    };
    let good = bytes_of(table);
    for message in all.iter().filter(|message| message.never.is_none() && message.name != table.name) {
        let bytes = bytes_of(message);
        let both = policy(&rule("r", family, &[table.name, message.name])).unwrap();
        let one = policy(&rule("r", family, &[table.name])).unwrap();
        for order in [
            [&begin, &bytes, &good, &good, &end],
            [&begin, &good, &bytes, &good, &end],
            [&begin, &good, &good, &bytes, &end],
        ] {
            let batch = order.map(Vec::as_slice).concat();
            assert_eq!(judge(&both, US, family, batch.clone()), Ok(vec!["r".to_owned()]), "{}", message.name);
            let why = judge(&one, US, family, batch).unwrap_err();
            assert_eq!(why, format!("no rule grants family=netfilter send={}", message.name));
        }
        // Behind the end, and without one.
        for order in [&[&begin, &good, &end, &bytes][..], &[&begin, &good, &bytes]] {
            let batch: Vec<u8> = order.iter().copied().flatten().copied().collect();
            assert!(judge(&both, US, family, batch).is_err(), "{}", message.name);
        }
    }
}
