//! Dumps, requests and events of the route family.

use std::collections::BTreeSet;
use std::fs::File;

use nlmmap::{Family, Ring, RingSocket};

use crate::wire::*;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTNLGRP_LINK: u32 = 1;

/// Everything a dump gives, part by part.
fn dump(socket: &RingSocket, request: u16, answer: u16, mut each: impl FnMut(&[u8])) {
    socket.send(&message(request, NLM_F_REQUEST | NLM_F_DUMP, 7, &[&[0; 16]])).unwrap();
    loop {
        let datagram = next(socket);
        assert!(datagram.is_from_kernel() && datagram.portid() == Some(0) && datagram.group() == 0);
        let mut parts = datagram.parts();
        for part in parts.by_ref() {
            if kind(part) == NLMSG_DONE {
                return;
            }
            assert_eq!(kind(part), answer);
            each(part);
        }
        assert!(parts.rest().is_empty());
    }
}

fn names(socket: &RingSocket) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    dump(socket, RTM_GETLINK, RTM_NEWLINK, |part| {
        // struct ifinfomsg, then attributes, of which IFLA_IFNAME (3) is the first.
        let len = u16_at(part, 32) as usize;
        assert_eq!(u16_at(part, 34), 3);
        names.insert(String::from_utf8(part[36..32 + len - 1].to_vec()).unwrap());
    });
    names
}

#[test]
fn links_are_dumped() {
    in_namespace(|| {
        sh("ip link add nlm0 type bridge; ip link add nlm1 type bridge");
        let socket = RingSocket::builder(Family::ROUTE).build().unwrap();
        assert_eq!(names(&socket), BTreeSet::from(["lo", "nlm0", "nlm1"].map(String::from)));
        assert!(socket.try_recv().unwrap().is_none());
    });
}

/// Parts of a dump are up to 32 KiB: they fit no frame here, and come by the same call.
#[test]
fn dumps_larger_than_a_frame_arrive_whole() {
    in_namespace(|| {
        sh("ip link set lo up; for i in $(seq 0 19); do for j in $(seq 1 250); do
            echo route add 10.$i.$j.0/24 dev lo; done; done | ip -batch -");
        for ring in [Ring::frames(128, 4096), Ring::frames(2, 128), Ring::frames(1, 65536), Ring::frames(64, 512)] {
            let socket = RingSocket::builder(Family::ROUTE).rx_ring(ring).build().unwrap();
            let (mut routes, mut largest) = (0, 0);
            dump(&socket, RTM_GETROUTE, RTM_NEWROUTE, |part| {
                // struct rtmsg: prefix length, and the main table (254).
                routes += u32::from(part[17] == 24 && part[20] == 254);
                largest = largest.max(part.len());
            });
            assert_eq!(routes, 5000, "{ring:?}");
            assert!(socket.try_recv().unwrap().is_none());
        }
    });
}

#[test]
fn requests_are_answered_in_order() {
    in_namespace(|| {
        sh("ip link set lo up");
        let socket = RingSocket::builder(Family::ROUTE).tx_ring(Ring::frames(16, 256)).build().unwrap();
        // More than the ring holds: it kicks itself.
        for sequence in 0..100 {
            // RTM_NEWADDR of 127.1.0.x/32 on lo (index 1); every tenth on a link that is not there.
            let index = if sequence % 10 == 9 { 4711u32 } else { 1 };
            let head = [&[2u8, 32, 0, 0][..], &index.to_ne_bytes()].concat();
            let local = attribute(2, &[127, 1, 0, sequence as u8]);
            socket.send(&message(20, NLM_F_REQUEST | NLM_F_ACK | 0x400, sequence, &[&head, &local])).unwrap();
        }
        for sequence in 0..100 {
            let answer = next(&socket);
            assert_eq!(u32_at(&answer, 8), sequence);
            let expected = if sequence % 10 == 9 { -libc::ENODEV } else { 0 };
            assert_eq!(acknowledgement(&answer), expected, "{sequence}");
        }
        assert!(socket.try_recv().unwrap().is_none());
        assert_eq!(sh("ip -4 -o addr show dev lo | grep -c 127.1.0").trim(), "90");
        assert_eq!(socket.kick().unwrap(), 0);
    });
}

/// A message that no TX frame holds is sent by the same call, after those before it.
#[test]
fn large_requests_are_sent_in_order() {
    in_namespace(|| {
        let socket = RingSocket::builder(Family::ROUTE).tx_ring(Ring::frames(16, 256)).build().unwrap();
        for sequence in 0..20 {
            // RTM_NEWLINK of a bridge with an alias (IFLA_IFALIAS, 20) that makes it large or small.
            let alias = attribute(20, &vec![b'a'; if sequence % 3 == 0 { 200 } else { 20 }]);
            let name = attribute(3, format!("nlm{sequence}\0").as_bytes());
            let info = attribute(18, &attribute(1, b"bridge"));
            let flags = NLM_F_REQUEST | NLM_F_ACK | 0x400;
            socket.send(&message(16, flags, sequence, &[&[0; 16], &name, &alias, &info])).unwrap();
        }
        for sequence in 0..20 {
            let answer = next(&socket);
            assert_eq!((u32_at(&answer, 8), acknowledgement(&answer)), (sequence, 0));
        }
        assert_eq!(names(&socket).len(), 21);
    });
}

#[test]
fn events_come_with_their_group() {
    in_namespace(|| {
        let socket = RingSocket::builder(Family::ROUTE).groups([RTNLGRP_LINK]).build().unwrap();
        sh("ip link add nlm0 type bridge");
        let event = next(&socket);
        assert_eq!((kind(&event), event.group()), (RTM_NEWLINK, RTNLGRP_LINK));
        assert!(event.is_from_kernel());
        drop(event);
        while socket.try_recv().unwrap().is_some() {}
        socket.leave(RTNLGRP_LINK).unwrap();
        sh("ip link del nlm0");
        assert!(socket.try_recv().unwrap().is_none());
        // Groups above 32 are in no address: RTNLGRP_NEXTHOP is such a one.
        socket.join(32).unwrap();
        socket.join(33).unwrap_or_else(|e| assert_eq!(e.errno(), libc::EINVAL, "{e}"));
    });
}

#[test]
fn a_socket_of_another_namespace() {
    let namespace = in_namespace(|| {
        sh("ip link add nlm9 type bridge");
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let socket = RingSocket::builder(Family::ROUTE).namespace(namespace).build().unwrap();
    assert_eq!(names(&socket), BTreeSet::from(["lo", "nlm9"].map(String::from)));
    let here = RingSocket::builder(Family::ROUTE).build().unwrap();
    assert!(!names(&here).contains("nlm9"));
}

#[test]
fn a_socket_that_is_handed_in() {
    in_namespace(|| {
        use std::os::fd::{FromRawFd, OwnedFd};
        let fd =
            // SAFETY: numbers; the descriptor is new.
            unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)) };
        let socket = RingSocket::builder(Family::ROUTE).socket(fd).portid(77).build().unwrap();
        assert_eq!(socket.portid().unwrap(), 77);
        assert_eq!(names(&socket).len(), 1);
        // It is non-blocking: `recv` waits all the same.
        std::thread::scope(|scope| {
            let namespace = File::open("/proc/thread-self/ns/net").unwrap();
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                let other = RingSocket::builder(Family::ROUTE).namespace(namespace).build().unwrap();
                drop(other);
            });
            socket.send(&message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, &[&[0; 16]])).unwrap();
            assert_eq!(kind(&socket.recv().unwrap()), RTM_NEWLINK);
        });
    });
}
