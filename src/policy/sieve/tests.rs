use super::*;
use crate::policy::catalog::{FAMILIES, family, received::Is};
use crate::policy::config::tests::policy;
use crate::policy::decide::Granted;
use crate::policy::generic::GenericIds;
use crate::policy::subject::Subject;
use crate::policy::wire::Builder;
use std::time::Instant;

const KERNEL: u32 = 0;
const NETFILTER: u32 = libc::NETLINK_NETFILTER as u32;
const ROUTE: u32 = libc::NETLINK_ROUTE as u32;

fn ids() -> GenericIds {
    GenericIds::of(
        &[(0x21, "wireguard"), (0x22, "ethtool"), (0x23, "nl80211"), (0x24, "tcp_metrics")],
        &[(40, "ethtool", "monitor")],
    )
}

fn message(kind: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Builder::default().message(kind, 0, payload).0;
    bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What is left of a datagram.
fn sift(sieve: &mut Sieve, family: u32, from: (u32, u32), parts: &[Vec<u8>]) -> (Vec<u8>, u64) {
    let mut bytes = parts.concat();
    let (kept, gone) = sieve.sift(family, from, &mut bytes, false);
    bytes.truncate(kept);
    (bytes, gone)
}

/// The datagram of a message of the kernel's as it is on the wire.
fn datagram(is: Is) -> Vec<u8> {
    match is {
        Is::Kind(kind) => message(kind, 0, &[2, 0, 0, 7]),
        Is::First(kind, first) => message(kind, 0, &[first, 0, 0, 7]),
        Is::Command(family, command) => message(ids().number(family).unwrap(), 0, &[command, 1, 0, 0]),
        Is::Word(place) => {
            let word = WORDS[usize::from(place)];
            if word == "libudev" { b"libudev\0rest".to_vec() } else { format!("{word}@/devices/x").into_bytes() }
        }
    }
}

/// Every message of every family, to a group: it arrives by the rule that names it, and by no other of its family.
#[test]
fn each_message_arrives_by_its_name_and_by_no_other() {
    for family in &FAMILIES {
        assert!(!family.received.is_empty(), "{}", family.name);
        for named in family.received {
            let mut sieve = Sieve::default();
            sieve.note(&note(About::Group, 9, &[named.pattern(&ids()).unwrap()]));
            for other in family.received {
                let bytes = datagram(other.is);
                let (left, gone) = sift(&mut sieve, family.number, (KERNEL, 9), std::slice::from_ref(&bytes));
                let arrives = named.name == other.name;
                assert_eq!(
                    (left.len(), gone),
                    (if arrives { bytes.len() } else { 0 }, u64::from(!arrives)),
                    "{named:?} {other:?}"
                );
                // What is sent to another group, joined without a grant, is not the sieve's.
                assert_eq!(sift(&mut sieve, family.number, (KERNEL, 8), std::slice::from_ref(&bytes)), (bytes, 0));
            }
        }
    }
    assert!(family("netfilter").unwrap().received("NFQNL_MSG_PACKET").is_some());
}

#[test]
fn of_a_datagram_of_many_what_is_not_named_is_taken_out() {
    let mut sieve = Sieve::default();
    sieve.note(&note(About::Group, 7, &[Pattern::kind(10 << 8 | 6), Pattern::kind(10 << 8 | 15)]));
    let [rule, set, generation] = [6, 9, 15].map(|kind| message(10 << 8 | kind, 1, &[2, 0, 0, 1, 9, 9, 9]));
    let all = [set.clone(), rule.clone(), set.clone(), set.clone(), generation.clone()];
    assert_eq!(sift(&mut sieve, NETFILTER, (KERNEL, 7), &all), ([rule, generation].concat(), 3));
    assert_eq!(sift(&mut sieve, NETFILTER, (KERNEL, 7), &[set.clone(), set.clone()]), (vec![], 2));
    // Cut short by a small buffer: each message is judged by its head.
    let mut cut = [message(10 << 8 | 6, 1, &[1; 8]), message(10 << 8 | 9, 1, &[1; 8])].concat();
    let whole = 24;
    for len in 0..=cut.len() {
        let (kept, gone) = sieve.sift(NETFILTER, (KERNEL, 7), &mut cut.clone()[..len], true);
        assert!(kept < whole + 12 && gone == u64::from(len >= whole + 12), "{len}: {kept} {gone}");
    }
    // Lengths that lie, as a program might that sends to the group: nothing passes behind one.
    for lie in [0u32, 15, 4096] {
        cut[24..28].copy_from_slice(&lie.to_ne_bytes());
        assert_eq!(sieve.sift(NETFILTER, (77, 7), &mut cut.clone(), false), (24, 1), "{lie}");
    }
}

#[test]
fn control_messages_and_other_programs_are_nobodys_grant() {
    let mut sieve = Sieve::default();
    sieve.note(&[note(About::Request, 5, &[]), note(About::Group, 1, &[])].concat());
    for kind in 1..FIRST_TYPE {
        let bytes = message(kind, 5, &[0; 4]);
        assert_eq!(sift(&mut sieve, ROUTE, (KERNEL, 0), std::slice::from_ref(&bytes)), (bytes, 0));
    }
    let bytes = message(16, 5, &[0; 16]);
    assert_eq!(
        sift(&mut sieve, ROUTE, (4711, 0), std::slice::from_ref(&bytes)),
        (bytes.clone(), 0),
        "from another program"
    );
    assert_eq!(
        sift(&mut sieve, ROUTE, (4711, 1), std::slice::from_ref(&bytes)),
        (vec![], 1),
        "to a group that was lent"
    );
    assert_eq!(sift(&mut sieve, ROUTE, (KERNEL, 0), &[bytes]), (vec![], 1), "the answer");
}

#[test]
fn packets_belong_to_their_queue() {
    let mut sieve = Sieve::default();
    sieve.note(&[note(About::Queue, 7, &[]), note(About::LogGroup, 8, &[Pattern::kind(LOG_PACKET)])].concat());
    let packet = |kind, number: u16| message(kind, 0, &[&[2, 0][..], &number.to_be_bytes(), &[1, 2, 3, 4]].concat());
    for (kind, number, arrives) in
        [(QUEUE_PACKET, 7, false), (QUEUE_PACKET, 8, true), (LOG_PACKET, 7, true), (LOG_PACKET, 8, true)]
    {
        let (left, _) = sift(&mut sieve, NETFILTER, (KERNEL, 0), &[packet(kind, number)]);
        assert_eq!(!left.is_empty(), arrives, "{kind:#x} {number}");
    }
}

#[test]
fn answers_are_judged_for_as_long_as_they_may_come() {
    let mut sieve = Sieve::default();
    let link = |seq| message(16, seq, &[0; 16]);
    let arrives = |sieve: &mut Sieve, seq| sift(sieve, ROUTE, (KERNEL, 0), &[link(seq)]).1 == 0;
    sieve.note(&[note(About::Sending, 1, &[]), note(About::Request, 5, &[]), note(About::Dump, 6, &[])].concat());
    assert!(!arrives(&mut sieve, 5) && !arrives(&mut sieve, 6) && arrives(&mut sieve, 7));
    sieve.drained();
    assert!(!arrives(&mut sieve, 5), "it may not be sent yet");
    sieve.sent(1);
    assert!(!arrives(&mut sieve, 5), "its answers may wait in the socket");
    sieve.drained();
    assert!(arrives(&mut sieve, 5), "the client's own, from now on");
    assert!(!arrives(&mut sieve, 6), "a dump goes on");
    let mut moved = Sieve::default();
    moved.note(&sieve.pack());
    moved.drained();
    assert!(!arrives(&mut moved, 6), "also elsewhere");
    sift(&mut sieve, ROUTE, (KERNEL, 0), &[message(DONE, 6, &[0; 4])]);
    assert!(arrives(&mut sieve, 6));
    // A dump whose end was lost is over with the next one.
    sieve.note(&[note(About::Dump, 8, &[]), note(About::Dump, 9, &[])].concat());
    sieve.drained();
    assert!(arrives(&mut sieve, 8) && !arrives(&mut sieve, 9));
}

/// More than is told apart: then what may be the answer to a granted request is judged, whatever its number.
#[test]
fn floods_open_nothing() {
    let mut sieve = Sieve::default();
    sieve.note(&note(About::Dump, 1, &[Pattern::kind(24)]));
    for seq in 2..3 * MOST as u32 {
        sieve.note(&note(About::Request, seq, &[Pattern::kind(24)]));
    }
    sieve.note(&note(About::Group, 3, &[Pattern::kind(24)]));
    let judged = |sieve: &mut Sieve, seq, kind| sift(sieve, ROUTE, (KERNEL, 0), &[message(kind, seq, &[0; 16])]).1;
    for seq in [1, 2, MOST as u32, 3 * MOST as u32 - 1, 1 << 30] {
        assert_eq!((judged(&mut sieve, seq, 16), judged(&mut sieve, seq, 24)), (1, 0), "{seq}");
    }
    assert_eq!(
        sift(&mut sieve, ROUTE, (KERNEL, 3), &[message(16, 0, &[0; 12])]).1,
        1,
        "groups have their place always"
    );
    let mut moved = Sieve::default();
    moved.note(&sieve.pack());
    assert_eq!(judged(&mut moved, 1 << 30, 16), 1);
    sieve.drained();
    assert_eq!((judged(&mut sieve, 1 << 30, 16), judged(&mut sieve, 1, 16)), (0, 1));
    for rule in 0..2 * MOST_RULES as u16 {
        sieve.note(&note(About::Queue, rule.into(), &[Pattern::kind(rule + 16)]));
    }
    assert!(sieve.rules.len() <= MOST_RULES);
    let last = message(QUEUE_PACKET, 0, &[&[2, 0][..], &(2 * MOST_RULES as u16 - 1).to_be_bytes()].concat());
    assert_eq!(sift(&mut sieve, NETFILTER, (KERNEL, 0), &[last]).1, 1);
    // Bytes that are no notes.
    for len in 0..40 {
        Sieve::default().note(&vec![0xff; len]);
    }
}

/// An audit takes nothing away, whatever comes, and tells each message that a rule would have withheld once, with its mark.
#[test]
fn an_audit_tells_and_takes_nothing() {
    let mut sieve = Sieve::default();
    let marked = |patterns: &[Pattern], mark| [patterns, &[Pattern::mark(mark)]].concat();
    sieve.note(&note(About::Audit, 0, &[]));
    sieve.note(&note(About::Group, 7, &marked(&[Pattern::kind(16)], 3)));
    sieve.note(&note(About::Group, 8, &marked(&[], 4)));
    sieve.note(&note(About::Request, 5, &marked(&[], 5)));
    let told = |sieve: &mut Sieve| -> Vec<(u8, u16)> {
        Heard::read(&sieve.take_heard()).map(|heard| (heard.mark, heard.kind())).collect()
    };
    let [named, other, more] = [16, 17, 20].map(|kind| message(kind, 0, &[2, 0, 0, 1]));
    let all = [named.clone(), other.clone(), more.clone()];
    for _ in 0..3 {
        assert_eq!(sift(&mut sieve, ROUTE, (KERNEL, 7), &all), (all.concat(), 0));
    }
    assert_eq!(told(&mut sieve), [(3, 17), (3, 20)]);
    assert_eq!(told(&mut sieve), [], "once");
    assert_eq!(sift(&mut sieve, ROUTE, (KERNEL, 8), std::slice::from_ref(&named)), (named.clone(), 0));
    assert_eq!(sift(&mut sieve, ROUTE, (KERNEL, 0), &[message(24, 5, &[2]), message(24, 6, &[2])]).1, 0);
    assert_eq!(told(&mut sieve), [(4, 16), (5, 24)], "another's answers are nobody's grant");
    // Elsewhere it is one as well; what is no message, and what lies, is the client's to see.
    let mut moved = Sieve::default();
    moved.note(&sieve.pack());
    let mut lying = other.clone();
    lying[..4].copy_from_slice(&4096u32.to_ne_bytes());
    for bytes in [lying, vec![1, 2, 3], other] {
        assert_eq!(sift(&mut moved, ROUTE, (77, 7), std::slice::from_ref(&bytes)), (bytes, 0));
    }
    assert_eq!(told(&mut moved), [(3, 17)]);
    // Any number of kinds is told of within bounds, and costs no more.
    for kind in 16..=u16::MAX {
        sift(&mut moved, ROUTE, (KERNEL, 7), &[message(kind, 0, &[0; 4])]);
    }
    assert_eq!(moved.take_heard().len(), (MOST_HEARD - 1) * 8);
    // Every pattern of the catalog is found again by what an audit tells.
    for family in &FAMILIES {
        for named in family.received {
            let mut sieve = Sieve::default();
            sieve.note(&[note(About::Audit, 0, &[]), note(About::Group, 9, &[Pattern::mark(1)])].concat());
            let bytes = datagram(named.is);
            assert_eq!(sift(&mut sieve, family.number, (KERNEL, 9), std::slice::from_ref(&bytes)), (bytes, 0));
            let heard: Vec<_> = Heard::read(&sieve.take_heard()).collect();
            let [heard] = heard[..] else { panic!("{named:?}: {heard:?}") };
            let found: Vec<_> =
                family.received.iter().filter(|m| m.pattern(&ids()).unwrap().is_about(heard)).map(|m| m.name).collect();
            assert_eq!(found, [named.name]);
        }
    }
}

/// From the configuration to what is left of an answer.
#[test]
fn a_rule_notes_what_its_grants_bring() {
    let rules = "[[policy.rule]]\nname = \"r\"\nusers = [7]\nfamily = \"netfilter\"\nqueues = [3]\nlog_groups = [4]\n\
                 send = [\"queue/*\", \"log/*\", \"conntrack/get\"]\njoin = [\"conntrack_new\"]\nreceive = [\"queue/*\", \"IPCTNL_MSG_CT_NEW\"]\n";
    let policy = policy(rules).unwrap();
    let subject = Subject { uid: 7, ..Subject::default() };
    let grant = |bytes: Vec<u8>| -> Granted {
        policy.judge(&[&subject], NETFILTER, true, bytes, &ids(), Instant::now()).unwrap()
    };
    let mut sieve = Sieve::default();
    let mut dump = message(1 << 8 | 1, 77, &[2, 0, 0, 0]);
    dump[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    sieve.note(&grant(dump).notes);
    sieve.note(&grant(message(3 << 8 | 2, 78, &[2, 0, 0, 3])).notes);
    sieve.note(&grant(message(4 << 8 | 1, 79, &[2, 0, 0, 4])).notes);
    let mut gone =
        |from, kind, seq, number: u8| sift(&mut sieve, NETFILTER, from, &[message(kind, seq, &[2, 0, 0, number])]).1;
    assert_eq!(gone((0, 0), 1 << 8, 77, 0), 0, "connections are named");
    assert_eq!(gone((0, 0), 1 << 8 | 2, 77, 0), 1, "their ends are not");
    assert_eq!(gone((0, 0), QUEUE_PACKET, 0, 3), 0);
    assert_eq!(gone((0, 0), LOG_PACKET, 0, 4), 1, "bound by the rule, and not named");
    assert_eq!(gone((0, 0), LOG_PACKET, 0, 5), 0, "bound by the client's own right");
    let notes = policy.rules[0].notes_of_group(1, &ids());
    sieve.note(&notes);
    assert_eq!(sift(&mut sieve, NETFILTER, (0, 1), &[message(1 << 8 | 2, 0, &[2, 0, 0, 0])]).1, 1);
    assert_eq!(sift(&mut sieve, NETFILTER, (0, 1), &[message(1 << 8, 0, &[2, 0, 0, 0])]).1, 0);
}
