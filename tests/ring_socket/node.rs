//! The same over a device node, whose daemon plays the kernel role.

use nix::sys::signal::Signal;
use nlmmap::{Builder, Destination, Error, Family, Ring, RingSocket};

use crate::daemon::Place;
use crate::wire::*;

fn over(place: &Place, family: Family) -> Builder {
    RingSocket::builder(family).node(place.node())
}

#[test]
fn dumps_events_and_requests_over_a_node() {
    let place = Place::new();
    let daemon = place.start();
    in_namespace(|| {
        sh("ip link set lo up; for i in $(seq 0 9); do for j in $(seq 1 100); do
            echo route add 10.$i.$j.0/24 dev lo; done; done | ip -batch -");
        let socket = over(&place, Family::ROUTE).groups([1]).rx_ring(Ring::frames(16, 4096)).build().unwrap();
        assert_ne!(socket.portid().unwrap(), 0);
        // RTM_GETROUTE, answered by RTM_NEWROUTE.
        socket.send(&message(26, NLM_F_REQUEST | NLM_F_DUMP, 7, &[&[0; 16]])).unwrap();
        let mut routes = 0;
        'dump: loop {
            let datagram = next(&socket);
            assert!(datagram.is_from_kernel() && datagram.portid() == Some(0));
            for part in datagram.parts() {
                if kind(part) == NLMSG_DONE {
                    break 'dump;
                }
                routes += u32::from(part[17] == 24 && part[20] == 254);
            }
        }
        assert_eq!(routes, 1000);
        sh("ip link add nlm0 type bridge");
        let event = next(&socket);
        assert_eq!((kind(&event), event.group(), event.credentials()), (16, 1, Some(Default::default())));
        drop(event);
        while socket.recv_timeout(std::time::Duration::from_millis(100)).unwrap().is_some() {}
        socket.leave(1).unwrap();
        // RTM_NEWLINK of a bridge, over and over: the first makes it. The alias makes some larger than a frame.
        for sequence in 0..200 {
            let alias = attribute(20, &vec![b'a'; if sequence % 7 == 0 { 200 } else { 20 }]);
            let info = attribute(18, &attribute(1, b"bridge"));
            let body: [&[u8]; 4] = [&[0; 16], &attribute(3, b"nlm1\0"), &alias, &info];
            socket.send(&message(16, NLM_F_REQUEST | NLM_F_ACK | 0x400, sequence, &body)).unwrap();
        }
        for sequence in 0..200 {
            let answer = next(&socket);
            assert_eq!((u32_at(&answer, 8), acknowledgement(&answer)), (sequence, 0));
        }
        assert!(socket.try_recv().unwrap().is_none());
    });
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn messages_of_processes_and_of_any_size_over_a_node() {
    let place = Place::new();
    let daemon = place.start();
    let sender = RingSocket::builder(Family::USERSOCK).build().unwrap();
    let socket = over(&place, Family::USERSOCK).rx_ring(Ring::frames(8, 1024)).build().unwrap();
    let to = Destination { portid: socket.portid().unwrap(), groups: 0 };
    let length = |number: u32| [40, 1000, 1001, 5000, 65_000][number as usize % 5];
    let mut held = Vec::new();
    for number in 0..40 {
        sender.send_to(&pattern(number, length(number)), to).unwrap();
        let message = next(&socket);
        assert!(!message.is_from_kernel() && message.portid().is_none());
        assert_eq!(message.credentials().map(|c| (c.pid, c.uid)), Some((std::process::id(), 0)));
        held.push((number, message));
        for (number, message) in &held {
            assert_eq!(**message, *pattern(*number, length(*number)));
        }
        if held.len() > 5 {
            held.remove(number as usize % 5);
        }
    }
    drop(held);
    // And back: to a process by address.
    let back = Destination { portid: sender.portid().unwrap(), groups: 0 };
    socket.send_to(b"answer", back).unwrap();
    assert_eq!(*next(&sender), *b"answer");
    assert_eq!(socket.send_to(&[0; 2000], back).unwrap_err().errno(), libc::EMSGSIZE);
    drop(socket);
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_daemon_that_dies_takes_nothing_that_was_received() {
    let place = Place::new();
    let daemon = place.start();
    let sender = RingSocket::builder(Family::USERSOCK).build().unwrap();
    let socket = over(&place, Family::USERSOCK).build().unwrap();
    let route = over(&place, Family::ROUTE).build().unwrap();
    let to = Destination { portid: socket.portid().unwrap(), groups: 0 };
    sender.send_to(&pattern(1, 500), to).unwrap();
    let lent = next(&socket);
    // Answers are in the ring when the kick returns.
    for sequence in 0..5 {
        route.send(&message(18, NLM_F_REQUEST, sequence, &[&[0; 16]])).unwrap();
    }
    route.kick().unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert_eq!(*lent, *pattern(1, 500));
    drop(lent);
    for sequence in 0..5 {
        assert_eq!(u32_at(&next(&route), 8), sequence);
    }
    for socket in [&socket, &route] {
        let error = socket.recv_timeout(LIMIT).expect_err("the daemon has gone");
        assert!(matches!(error, Error::NodeGone), "{error}");
        assert!(error.to_string().contains("nlmmap serve"));
        socket.send(&message(18, NLM_F_REQUEST, 9, &[&[0; 16]])).unwrap();
        assert!(matches!(socket.kick(), Err(Error::NodeGone)));
        assert!(matches!(socket.join(1), Err(Error::NodeGone)));
    }
    let error = over(&place, Family::ROUTE).build().expect_err("the daemon has gone");
    assert!(matches!(error.errno(), libc::ENOENT | libc::ENOTCONN), "{error}");
}

#[test]
fn refusals_of_a_node() {
    let place = Place::new();
    let daemon = place.start();
    let refusal = |builder: Builder| builder.build().expect_err("it cannot be built");
    assert!(matches!(refusal(over(&place, Family(31))), Error::NoFamily(Family(31))));
    assert!(matches!(refusal(over(&place, Family::ROUTE).groups([100_000])), Error::NoGroup { group: 100_000, .. }));
    assert!(matches!(refusal(over(&place, Family::ROUTE).rx_ring(Ring::frames(1, 5))), Error::BadRing { .. }));
    // More than a client may have.
    let large = refusal(over(&place, Family::ROUTE).rx_ring(Ring::frames(1 << 14, 8192)));
    assert_eq!(large.errno(), libc::ENOMEM, "{large}");
    daemon.wait_for_opens(0);
    daemon.stop();
}

#[test]
fn a_node_serves_another_namespace() {
    let place = Place::new();
    let daemon = place.start();
    let namespace = in_namespace(|| {
        sh("ip link add nlm7 type bridge");
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    let socket = over(&place, Family::ROUTE).namespace(namespace).build().unwrap();
    // RTM_GETLINK of nlm7 by name.
    socket.send(&message(18, NLM_F_REQUEST, 1, &[&[0; 16], &attribute(3, b"nlm7\0")])).unwrap();
    assert_eq!(kind(&next(&socket)), 16);
    drop(socket);
    daemon.stop();
}
