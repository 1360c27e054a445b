//! NFQUEUE: packets judged through the rings.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nlmmap::{Family, Ring, RingSocket};

use crate::wire::*;

const PACKET: u16 = 3 << 8;
const VERDICT: u16 = 3 << 8 | 1;
const CONFIG: u16 = 3 << 8 | 2;
const QUEUE: [u8; 4] = [0, 0, 0, 5];

fn queue(build: impl FnOnce(nlmmap::Builder) -> nlmmap::Builder) -> RingSocket {
    let socket = build(RingSocket::builder(Family::NETFILTER)).build().unwrap();
    let bind = attribute(1, &[1, 0, 0, 2]); // NFQA_CFG_CMD: BIND, AF_INET
    let copy = attribute(2, &[0, 0, 0xff, 0xff, 2]); // NFQA_CFG_PARAMS: NFQNL_COPY_PACKET
    let most = attribute(3, &100_000u32.to_be_bytes()); // NFQA_CFG_QUEUE_MAXLEN
    for body in [[&QUEUE[..], &bind].concat(), [&QUEUE[..], &copy, &most].concat()] {
        socket.send(&message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, &[&body])).unwrap();
        assert_eq!(acknowledgement(&next(&socket)), 0, "the queue can be configured");
    }
    socket
}

fn id(packet: &[u8]) -> u32 {
    assert_eq!(kind(packet), PACKET);
    assert_eq!(u16_at(packet, 22), 1, "NFQA_PACKET_HDR comes first");
    u32::from_be_bytes(packet[24..28].try_into().unwrap())
}

fn verdict(id: u32, judgement: u32) -> Vec<u8> {
    let data = [judgement.to_be_bytes(), id.to_be_bytes()].concat();
    message(VERDICT, NLM_F_REQUEST, 0, &[&QUEUE, &attribute(2, &data)])
}

const SETUP: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 5";

/// Sends numbered packets; the receiver's socket tells which have come.
fn traffic() -> (UdpSocket, impl Fn(u32, usize)) {
    let receiver = UdpSocket::bind("127.0.0.1:9999").unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    // What waits for a verdict is charged to its sender.
    for (socket, option) in [(&sender, libc::SO_SNDBUFFORCE), (&receiver, libc::SO_RCVBUFFORCE)] {
        let room = 64i32 << 20;
        let set =
            // SAFETY: an int and its size.
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const room).cast(), 4) };
        assert_eq!(set, 0);
    }
    sender.connect("127.0.0.1:9999").unwrap();
    let send = move |number: u32, len: usize| assert_eq!(sender.send(&pattern(number, len)).unwrap(), len);
    (receiver, send)
}

fn received(receiver: &UdpSocket) -> (u32, usize) {
    let mut bytes = vec![0; 65536];
    let len = receiver.recv(&mut bytes).expect("the packet was let through");
    assert_eq!(bytes[..len], pattern(u32_at(&bytes, 0), len));
    (u32_at(&bytes, 0), len)
}

/// Every third is dropped. The loop never kicks: receiving does.
#[test]
fn packets_are_judged_one_by_one() {
    in_namespace(|| {
        sh(SETUP);
        let socket = queue(|b| b);
        let (receiver, send) = traffic();
        for number in 0..300 {
            send(number, 100);
        }
        for number in 0..300 {
            let packet = next(&socket);
            assert!(packet.is_from_kernel());
            assert_eq!(id(&packet), number + 1, "packets come in order");
            let judgement = u32::from(number % 3 != 0);
            socket.send(&verdict(number + 1, judgement)).unwrap();
        }
        // Asks the kernel, and so sends what is filled.
        assert!(socket.try_recv().unwrap().is_none());
        for number in (0..300).filter(|n| n % 3 != 0) {
            assert_eq!(received(&receiver), (number, 100));
        }
        let counters = sh("cat /proc/net/netfilter/nfnetlink_queue");
        let waiting: Vec<&str> = counters.split_whitespace().skip(2).take(1).collect();
        assert_eq!(waiting, ["0"], "no packet waits for a verdict: {counters}");
    });
}

#[test]
fn packets_are_judged_by_batch() {
    in_namespace(|| {
        sh(SETUP);
        let socket = queue(|b| b.rx_ring(Ring::frames(64, 2048)).tx_ring(Ring::frames(64, 256)));
        let (receiver, send) = traffic();
        let (mut sent, mut judged, mut largest) = (0, 0, 0);
        while judged < 500 {
            while sent < 500 && sent < judged + 100 {
                send(sent, 500);
                sent += 1;
            }
            let mut size = 0;
            for packet in socket.recv_batch().unwrap() {
                socket.send(&verdict(id(&packet.unwrap()), 1)).unwrap();
                (judged, size) = (judged + 1, size + 1);
            }
            largest = largest.max(size);
            assert_eq!(socket.kick().unwrap() % 32, 0);
        }
        assert!(largest > 8, "many packets come by one system call: {largest}");
        for number in 0..500 {
            assert_eq!(received(&receiver), (number, 500));
        }
    });
}

/// 60 KiB packets fit no frame. Some of every size are held at once, and judged in another order than they came.
#[test]
fn packets_larger_than_a_frame_and_verdicts_out_of_order() {
    in_namespace(|| {
        sh(SETUP);
        sh("ip link set lo mtu 65536");
        let socket = queue(|b| b.rx_ring(Ring::frames(32, 2048)));
        let (receiver, send) = traffic();
        let size = |number: u32| if number.is_multiple_of(2) { 60_000 } else { 300 };
        for number in 0..20 {
            send(number, size(number));
        }
        let mut held: Vec<_> = (0..20).map(|_| next(&socket)).collect();
        for (number, packet) in (0..).zip(&held) {
            assert_eq!(id(packet), number + 1);
            assert!(packet.ends_with(&pattern(number, size(number))), "the payload is the last attribute, whole");
        }
        while !held.is_empty() {
            let packet = held.remove(held.len() / 2);
            socket.send(&verdict(id(&packet), 1)).unwrap();
        }
        socket.kick().unwrap();
        let mut all: Vec<u32> = (0..20)
            .map(|_| received(&receiver))
            .map(|(n, len)| {
                assert_eq!(len, size(n));
                n
            })
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    });
}

/// What the program holds is lent to worker threads; the loop goes on.
#[test]
fn packets_go_to_worker_threads() {
    in_namespace(|| {
        sh(SETUP);
        let socket = queue(|b| b.rx_ring(Ring::frames(64, 2048)));
        let (receiver, send) = traffic();
        for number in 0..64 {
            send(number, 200);
        }
        std::thread::scope(|scope| {
            let (verdicts, results) = std::sync::mpsc::channel();
            let (packets, work) = std::sync::mpsc::channel::<nlmmap::Message<'_>>();
            scope.spawn(move || {
                for packet in work {
                    std::thread::sleep(Duration::from_micros(100));
                    verdicts.send(id(&packet)).unwrap();
                }
            });
            for _ in 0..64 {
                packets.send(next(&socket)).unwrap();
            }
            drop(packets);
            for id in results {
                socket.send(&verdict(id, 1)).unwrap();
            }
            socket.kick().unwrap();
        });
        for number in 0..64 {
            assert_eq!(received(&receiver), (number, 200));
        }
    });
}
