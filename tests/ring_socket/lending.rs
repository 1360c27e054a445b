//! What is lent stays as it is; what is given back is used again.

use std::time::{Duration, Instant};

use nlmmap::{Destination, Error, Ring};

use crate::wire::*;

fn to(portid: u32) -> Destination {
    Destination { portid, groups: 0 }
}

/// A hold, drop and receive order made by chance: every byte of everything held is true at every time.
#[test]
fn messages_are_dropped_in_any_order() {
    let (a, b, portid) = pair(|b| b.rx_ring(Ring::frames(16, 512)));
    let mut seed = 12345u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % below
    };
    let length = |number: u32| if number.is_multiple_of(11) { 9000 } else { 8 + (number as usize * 37) % 470 };
    let mut held = Vec::new();
    let (mut sent, mut got) = (0, 0);
    while got < 3000 {
        for _ in 0..random(8) {
            if sent < got + 40 {
                a.send_to(&pattern(sent, length(sent)), to(portid)).unwrap();
                sent += 1;
            }
        }
        for _ in 0..random(8) {
            match b.try_recv() {
                Ok(Some(message)) => {
                    held.push((got, message));
                    got += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error, Error::AllHeld { .. }), "{error}");
                    break;
                }
            }
        }
        for (number, message) in &held {
            assert_eq!(**message, *pattern(*number, length(*number)));
        }
        for _ in 0..random(9) {
            if !held.is_empty() {
                drop(held.swap_remove(random(held.len() as u32) as usize));
            }
        }
    }
}

#[test]
fn with_every_frame_held_nothing_is_lost() {
    let (a, b, portid) = pair(|b| b.rx_ring(Ring::frames(4, 1024)));
    for number in 0..6 {
        a.send_to(&pattern(number, 100), to(portid)).unwrap();
    }
    let mut held: Vec<_> = (0..4).map(|_| next(&b)).collect();
    for _ in 0..2 {
        let error = b.try_recv().unwrap_err();
        assert!(matches!(error, Error::AllHeld { large: false }), "{error}");
        assert_eq!((error.errno(), error.to_string().contains("drop a message")), (libc::EBUSY, true));
    }
    drop(held.remove(2));
    assert_eq!(*next(&b), *pattern(4, 100));
    drop(held);
    assert_eq!(*next(&b), *pattern(5, 100));
}

#[test]
fn a_forgotten_message_costs_its_frame_only() {
    let (a, b, portid) = pair(|b| b.rx_ring(Ring::frames(2, 1024)));
    for number in 0..50 {
        a.send_to(&pattern(number, 64), to(portid)).unwrap();
        let message = next(&b);
        assert_eq!(*message, *pattern(number, 64));
        if number == 7 {
            std::mem::forget(message);
        }
    }
}

#[test]
fn senders_are_known_as_the_kernel_vouches() {
    let (a, b, portid) = pair(|b| b.groups([3]));
    a.send_to(b"one", to(portid)).unwrap();
    // It reaches the group, and then the kernel, which has no receiver in this family, refuses its part.
    let refused = a.send_to(b"all", Destination { portid: 0, groups: 1 << 2 }).unwrap_err();
    assert_eq!(refused.errno(), libc::ECONNREFUSED);
    for (bytes, group) in [(b"one", 0), (b"all", 3)] {
        let message = next(&b);
        assert_eq!((&*message, message.group()), (&bytes[..], group));
        assert!(!message.is_from_kernel());
        assert_eq!(message.portid(), Some(a.portid().unwrap()));
        let credentials = message.credentials().unwrap();
        assert_eq!((credentials.pid, credentials.uid, credentials.gid), (std::process::id(), 0, 0));
    }
    let (a, b, portid) = pair(|b| b.credentials(false));
    a.send_to(b"one", to(portid)).unwrap();
    assert_eq!(next(&b).credentials(), None);
}

#[test]
fn an_overrun_is_told_and_what_came_before_is_there() {
    let (a, b, portid) = pair(|b| b.receive_buffer(1));
    // As small as the kernel makes it, whoever asks; sends are refused when it is full, a multicast is dropped.
    for number in 0..4 {
        a.send_to(&pattern(number, 500), to(portid)).unwrap();
    }
    let small = 2048i32;
    use std::os::fd::AsRawFd;
    let set =
        // SAFETY: an int and its size.
        unsafe { libc::setsockopt(b.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const small).cast(), 4) };
    assert_eq!(set, 0);
    b.join(5).unwrap();
    for number in 0..50 {
        let _ = a.send_to(&pattern(number, 1000), Destination { portid: 0, groups: 1 << 4 });
    }
    let mut overruns = 0;
    let mut unicasts = 0;
    loop {
        match b.try_recv() {
            Ok(None) => break,
            Ok(Some(message)) => unicasts += u32::from(message.group() == 0),
            Err(Error::Overrun) => overruns += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((overruns, unicasts), (1, 4));
    a.send_to(b"again", to(portid)).unwrap();
    assert_eq!(*next(&b), *b"again");
}

#[test]
fn a_message_larger_than_everything_is_told_with_its_length() {
    let (a, b, portid) = pair(|b| b.receive_buffer(4 << 20));
    let large = vec![7; 600 << 10];
    a.send_to(&large, to(portid)).unwrap();
    a.send_to(b"next", to(portid)).unwrap();
    match b.recv_timeout(LIMIT).unwrap_err() {
        Error::Truncated { len, room } => assert_eq!((len, room), (600 << 10, 448 << 10)),
        error => panic!("{error}"),
    }
    assert_eq!(*next(&b), *b"next");
    // Frames of that size take it.
    let (a, b, portid) = pair(|b| b.receive_buffer(4 << 20).rx_ring(Ring::frames(2, 1 << 20)));
    a.send_to(&large, to(portid)).unwrap();
    assert_eq!(next(&b).len(), large.len());
}

#[test]
fn waiting_ends_in_time() {
    let (_a, b, _) = pair(|b| b);
    let before = Instant::now();
    assert!(b.recv_timeout(Duration::from_millis(60)).unwrap().is_none());
    assert!(before.elapsed() >= Duration::from_millis(60));
    assert!(b.recv_timeout(Duration::ZERO).unwrap().is_none());
}

#[test]
fn many_sizes_by_one_socket() {
    let (a, b, portid) = pair(|b| b.rx_ring(Ring::frames(8, 1500)).receive_buffer(8 << 20));
    for (number, len) in (0..).zip([4, 1475, 1476, 1477, 3000, 1 << 16, 200_000, 448 << 10, 5]) {
        a.send_to(&pattern(number, len), to(portid)).unwrap();
        let message = next(&b);
        assert_eq!(message.len(), len);
        assert_eq!(*message, *pattern(number, len));
    }
}
