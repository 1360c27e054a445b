use super::*;
use crate::policy::wire::{Builder, attribute};

const FD: [u8; 4] = 7i32.to_ne_bytes();

fn nest(kind: u16, inner: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &inner.concat())
}

fn text(kind: u16, word: &str) -> Vec<u8> {
    attribute(kind, format!("{word}\0").as_bytes())
}

fn fd(kind: u16) -> Vec<u8> {
    attribute(kind, &FD)
}

/// A message with a fixed part of zeroes.
fn message(kind: u16, fixed: usize, attrs: &[Vec<u8>]) -> Vec<u8> {
    Builder::default().message(kind, 5, &[vec![0; fixed], attrs.concat()].concat()).0
}

fn named(family: u32, datagram: &[u8]) -> bool {
    are_named(family, datagram, |_| None)
}

/// Each of these names a descriptor, and each is found behind another message, too; what is beside it does not.
#[test]
fn descriptors_are_found_wherever_the_kernel_finds_them() {
    let link = |attrs: &[Vec<u8>]| message(16, 16, attrs);
    let info = |kind: &str, data: &[Vec<u8>]| nest(18, &[text(1, kind), nest(2, data)]);
    let peer = |attrs: &[Vec<u8>]| nest(1, &[vec![0; 16], attrs.concat()]);
    let bpf = |kind: u16| nest(kind, &[nest(2, &[fd(1)])]);
    let encap = |kind: u16| attribute(21, &kind.to_ne_bytes());
    let action = |kind: &str| nest(1, &[nest(1, &[text(1, kind), nest(2, &[fd(5)])])]);
    let hop = |attrs: &[Vec<u8>]| {
        let attrs = attrs.concat();
        [((8 + attrs.len()) as u16).to_ne_bytes().to_vec(), vec![0; 6], attrs].concat()
    };
    let rule = |name: &str, revision: u32, mode: u16| {
        let info = [mode.to_ne_bytes().to_vec(), vec![0; 30]].concat();
        let data = nest(2, &[text(1, name), attribute(2, &revision.to_be_bytes()), attribute(3, &info)]);
        message(10 << 8 | 6, 4, &[text(1, "table"), nest(4, &[nest(1, &[text(1, "match"), data])])])
    };
    let found = [
        (ROUTE, link(&[text(3, "lo"), fd(28)])),
        (ROUTE, message(19, 16, &[fd(28)])),
        (ROUTE, link(&[attribute(28 | 0x4000, &FD)])),
        (ROUTE, link(&[nest(43, &[fd(1)])])),
        (ROUTE, link(&[nest(43, &[fd(8)])])),
        (ROUTE, link(&[info("ppp", &[fd(1)])])),
        (ROUTE, link(&[info("gtp", &[fd(2)])])),
        (ROUTE, link(&[info("veth", &[peer(&[fd(28)])])])),
        (ROUTE, message(90, 4, &[fd(3)])),
        (ROUTE, message(88, 4, &[fd(3)])),
        (ROUTE, message(24, 12, &[encap(6), bpf(22)])),
        (ROUTE, message(24, 12, &[nest(22, &[nest(8, &[fd(1)])]), encap(7)])),
        (ROUTE, message(24, 12, &[nest(9, &[hop(&[]), hop(&[encap(6), bpf(22)])])])),
        (ROUTE, message(104, 8, &[attribute(7, &6u16.to_ne_bytes()), bpf(8)])),
        (ROUTE, message(44, 20, &[text(1, "bpf"), nest(2, &[fd(6)])])),
        (ROUTE, message(44, 20, &[nest(2, &[fd(6)])])),
        (
            ROUTE,
            message(
                44,
                20,
                &[text(1, "flower"), nest(2, &[nest(3, &[nest(1, &[text(1, "bpf"), nest(2, &[fd(5)])])])])],
            ),
        ),
        (ROUTE, message(48, 4, &[action("bpf")])),
        (SOCK_DIAG, message(20, 56, &[nest(2, &[fd(1)])])),
        (NETFILTER, rule("bpf", 1, 1)),
        (NETFILTER, rule("bpf", 1, 2)),
        (RDMA, message(5 << 10 | 1, 0, &[fd(68)])),
    ];
    for (number, (family, datagram)) in found.iter().enumerate() {
        assert!(has_any(*family) && named(*family, datagram), "{number}");
        let behind = [message(18, 16, &[]), datagram.clone()].concat();
        assert!(named(*family, &behind), "{number} behind another");
        let broken = [vec![8, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], datagram.clone()].concat();
        assert!(!named(*family, &broken), "{number} behind what ends the kernel's walk");
        for len in 0..datagram.len() {
            named(*family, &datagram[..len]);
        }
        assert!(!named(9, datagram), "audit has none");
    }
    let plain = [
        (ROUTE, link(&[text(3, "lo"), attribute(13, &FD)])),
        (ROUTE, message(18, 16, &[fd(28)])),
        (ROUTE, link(&[info("vlan", &[fd(1)])])),
        (ROUTE, link(&[info("veth", &[peer(&[text(3, "peer")])])])),
        (ROUTE, message(90, 4, &[attribute(2, &FD)])),
        (ROUTE, message(24, 12, &[encap(1), bpf(22)])),
        (ROUTE, message(24, 12, &[attribute(5, &[127, 0, 0, 1])])),
        (ROUTE, message(44, 20, &[text(1, "u32"), nest(2, &[fd(6)])])),
        (ROUTE, message(48, 4, &[action("gact")])),
        (SOCK_DIAG, message(20, 56, &[])),
        (NETFILTER, rule("bpf", 1, 0)),
        (NETFILTER, rule("bpf", 0, 3)),
        (NETFILTER, rule("owner", 1, 3)),
        (RDMA, message(2 << 10 | 1, 0, &[fd(68)])),
    ];
    for (number, (family, datagram)) in plain.iter().enumerate() {
        assert!(!named(*family, datagram), "{number}");
    }
}

#[test]
fn generic_families_are_judged_by_their_names() {
    let is = |name: &str, command: u8, attrs: &[Vec<u8>]| {
        let datagram = Builder::default().message(33, 5, &[vec![command, 1, 0, 0], attrs.concat()].concat()).0;
        assert!(!are_named(GENERIC, &datagram, |_| None), "an unknown number");
        are_named(GENERIC, &datagram, |number| if number == 33 { judge(name) } else { None })
    };
    for (name, attr) in [("nl80211", 219), ("nl802154", 29), ("devlink", 138), ("l2tp", 23), ("gtp", 7)] {
        assert!(is(name, 1, &[fd(attr)]) && !is(name, 1, &[fd(attr + 1)]), "{name}");
    }
    assert!(is("nbd", 1, &[nest(7, &[nest(1, &[fd(1)])])]) && !is("nbd", 1, &[fd(1)]));
    assert!(is("ovpn", 1, &[nest(2, &[fd(6)])]) && !is("ovpn", 1, &[fd(6)]));
    assert!(is("TASKSTATS", 4, &[fd(1)]) && !is("TASKSTATS", 1, &[fd(1)]), "a process id is none");
    assert!(is("handshake", 2, &[]) && is("handshake", 3, &[fd(2)]) && !is("handshake", 3, &[fd(1)]));
    assert!(is("netdev", 13, &[fd(3)]) && !is("netdev", 10, &[fd(3)]));
    assert!(is("psp", 8, &[fd(5)]) && !is("psp", 1, &[fd(5)]));
    assert!(judge("nlctrl").is_none());
}
