//! What cannot be is refused, with cause and cure.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{FromRawFd, OwnedFd};

use nlmmap::{Error, Family, Ring, RingSocket};

use crate::wire::*;

fn refusal(builder: nlmmap::Builder) -> (Error, String) {
    let error = builder.build().expect_err("it cannot be built");
    let text = error.to_string();
    (error, text)
}

#[test]
fn rings_that_cannot_be() {
    for ring in
        [Ring::frames(0, 4096), Ring::frames(8, 4), Ring::blocks(4096, 1, 8192, 1), Ring::blocks(4096, 2, 2048, 5)]
    {
        for builder in
            [RingSocket::builder(Family::ROUTE).rx_ring(ring), RingSocket::builder(Family::ROUTE).tx_ring(ring)]
        {
            let (error, text) = refusal(builder);
            assert!(matches!(error, Error::BadRing { .. }), "{error}");
            assert_eq!(error.errno(), libc::EINVAL);
            assert!(text.contains("frames of"), "{text}");
        }
    }
}

#[test]
fn families_that_this_kernel_lacks() {
    for family in [31, 32, 4096, u32::MAX] {
        let (error, text) = refusal(RingSocket::builder(Family(family)));
        assert!(matches!(error, Error::NoFamily(Family(f)) if f == family), "{error}");
        assert!(text.contains(&family.to_string()) && text.contains("module"), "{text}");
    }
}

#[test]
fn groups_that_are_none() {
    for group in [0, 100_000] {
        let (error, text) = refusal(RingSocket::builder(Family::ROUTE).groups([1, group]));
        assert!(matches!(error, Error::NoGroup { .. }) && text.contains(&group.to_string()), "{text}");
    }
    let socket = RingSocket::builder(Family::ROUTE).build().unwrap();
    assert_eq!(socket.join(0).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn descriptors_of_something_else() {
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(refusal(RingSocket::builder(Family::ROUTE).socket(file)).0, Error::NotNetlink));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(matches!(refusal(RingSocket::builder(Family::ROUTE).socket(udp)).0, Error::NotNetlink));
    let usersock =
        // SAFETY: numbers; the descriptor is new.
        unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 2)) };
    let (error, text) = refusal(RingSocket::builder(Family::ROUTE).socket(usersock));
    assert!(matches!(error, Error::OtherFamily { .. }) && text == "the socket is of netlink family 2, not 0", "{text}");
}

#[test]
fn namespaces_and_port_ids() {
    let file = File::open("/dev/null").unwrap();
    let (error, text) = refusal(RingSocket::builder(Family::ROUTE).namespace(file));
    assert!(error.errno() == libc::EINVAL && text.contains("namespace"), "{text}");
    in_namespace(|| {
        let first = RingSocket::builder(Family::ROUTE).portid(5).build().unwrap();
        assert_eq!(refusal(RingSocket::builder(Family::ROUTE).portid(5)).0.errno(), libc::EADDRINUSE);
        drop(first);
        RingSocket::builder(Family::ROUTE).portid(5).build().unwrap();
    });
    // SAFETY: numbers; the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)) };
    let namespace = File::open("/proc/self/ns/net").unwrap();
    let (error, _) = refusal(RingSocket::builder(Family::ROUTE).socket(fd).namespace(namespace));
    assert!(matches!(error, Error::Options(_)));
}

#[test]
fn nodes_that_are_none() {
    let (error, text) = refusal(RingSocket::builder(Family::ROUTE).node("/nowhere/nlmmap"));
    assert!(error.errno() == libc::ENOENT && text.contains("device node"), "{text}");
    let (error, text) = refusal(RingSocket::builder(Family::ROUTE).node("/dev/null"));
    assert!(matches!(error, Error::NotNode { .. }) && text.contains("/dev/null"), "{text}");
}

/// A send that fails takes its message away and leaves the socket whole.
#[test]
fn sends_that_fail() {
    let socket = RingSocket::builder(Family::USERSOCK).build().unwrap();
    let nobody = nlmmap::Destination { portid: u32::MAX - 5, groups: 0 };
    assert_eq!(socket.send_to(b"x", nobody).unwrap_err().errno(), libc::ECONNREFUSED);
    // The kernel itself has no USERSOCK receiver.
    for _ in 0..3 {
        socket.send(b"x").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(socket.kick().unwrap_err().errno(), libc::ECONNREFUSED);
    }
    assert_eq!(socket.kick().unwrap(), 0);
    assert!(socket.try_recv().unwrap().is_none());
}

#[test]
fn errors_become_io_errors() {
    let error: std::io::Error = Error::Overrun.into();
    assert!(error.to_string().contains("receive_buffer"));
    let error: std::io::Error = RingSocket::builder(Family::ROUTE).node("/nowhere").build().unwrap_err().into();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

/// Runs this test's other half in a process of its own, whose limits are nobody else's.
fn in_own_process(test: &str, body: fn()) {
    if std::env::var_os("NLMMAP_TEST_HALF").is_some() {
        return body();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env("NLMMAP_TEST_HALF", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
}

fn limit(what: libc::__rlimit_resource_t, soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live rlimit, here and below.
    assert_eq!(unsafe { libc::getrlimit(what, &raw mut limit) }, 0, "{}", std::io::Error::last_os_error());
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(what, &raw const limit) }, 0, "{}", std::io::Error::last_os_error());
}

/// Every number of descriptors that is too small is told, and the first that suffices serves.
#[test]
fn no_descriptors_left() {
    in_own_process("bad_input::no_descriptors_left", || {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
        let before = open();
        let namespace = || OwnedFd::from(File::open("/proc/self/ns/net").unwrap());
        let mut refused = 0;
        // Numbers that are open already need not be the lowest.
        for most in 3..64 {
            let given = namespace();
            limit(libc::RLIMIT_NOFILE, most);
            let built = RingSocket::builder(Family::ROUTE).namespace(given).build();
            limit(libc::RLIMIT_NOFILE, 1024);
            match built {
                Ok(socket) => {
                    socket.send(&message(18, NLM_F_REQUEST | NLM_F_DUMP, 1, &[&[0; 16]])).unwrap();
                    assert_eq!(kind(&next(&socket)), 16);
                    drop(socket);
                    assert!(refused > 0, "no limit was too small");
                    assert_eq!(open(), before, "a descriptor is left over");
                    return;
                }
                Err(error) => {
                    assert_eq!(error.errno(), libc::EMFILE, "{error}");
                    assert_eq!(open(), before, "a refused socket has left a descriptor");
                    refused += 1;
                }
            }
        }
        panic!("no limit was large enough");
    });
}

#[test]
fn no_memory_left() {
    in_own_process("bad_input::no_memory_left", || {
        let large = || RingSocket::builder(Family::ROUTE).rx_ring(Ring::frames(1 << 14, 16384));
        limit(libc::RLIMIT_AS, 200 << 20);
        let (error, text) = refusal(large());
        limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        assert!(error.errno() == libc::ENOMEM && text.contains("ring"), "{text}");
        large().build().unwrap();
    });
}

/// Something else has the socket's number: calls are refused by what it is, and what is lent stays.
#[test]
fn a_number_that_is_something_else_by_now() {
    use std::os::fd::AsRawFd;
    let (a, b, to) = pair(|b| b);
    let to = nlmmap::Destination { portid: to, groups: 0 };
    a.send_to(&pattern(1, 700), to).unwrap();
    let lent = next(&b);
    let file = File::open("/dev/null").unwrap();
    // SAFETY: numbers; the number stays open, and is closed once, by its owner.
    assert!(unsafe { libc::dup3(file.as_raw_fd(), b.as_raw_fd(), libc::O_CLOEXEC) } >= 0);
    for _ in 0..3 {
        assert_eq!(b.recv().expect_err("no socket").errno(), libc::ENOTSOCK);
        assert_eq!(b.try_recv().expect_err("no socket").errno(), libc::ENOTSOCK);
        b.send(b"x").unwrap();
        assert_eq!(b.kick().expect_err("no socket").errno(), libc::ENOTSOCK);
        assert_eq!(b.join(1).expect_err("no socket").errno(), libc::ENOTSOCK);
        assert_eq!(b.portid().expect_err("no socket").errno(), libc::ENOTSOCK);
    }
    assert_eq!(*lent, *pattern(1, 700));
    drop(lent);
}
