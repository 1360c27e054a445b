//! What is measured: work, and the ways to do it.

/// What a row of a table shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Messages a second.
    Rate,
    /// Nanoseconds a message.
    Latency,
}

/// One way to do a piece of work.
pub struct Way {
    /// As the table names it.
    pub label: &'static str,
    /// As the client knows it.
    pub arg: &'static str,
    /// Whether the client is run with the library.
    pub ring: bool,
    /// Whether its sockets come from a device node.
    pub device: bool,
}

/// One piece of work, done in several ways.
pub struct Work {
    /// For the command line.
    pub name: &'static str,
    /// For the table.
    pub title: &'static str,
    /// What is counted.
    pub unit: &'static str,
    pub kind: Kind,
    /// `benches/clients/PROGRAM.c`
    pub program: &'static str,
    /// Its arguments behind the way; `COUNT` stands for the two counts.
    pub args: &'static [&'static str],
    /// How much of it, in full and for `--quick`.
    pub count: [u64; 2],
    /// Compared with the one named `against`.
    pub ways: &'static [Way],
    pub against: &'static str,
}

const fn plain(label: &'static str, arg: &'static str) -> Way {
    Way { label, arg, ring: false, device: false }
}

const fn ring(label: &'static str, arg: &'static str) -> Way {
    Way { label, arg, ring: true, device: false }
}

/// By `nlmmap run --device`.
const fn device(label: &'static str, arg: &'static str) -> Way {
    Way { label, arg, ring: true, device: true }
}

const RECV: Way = plain("recv", "recv");
const POLL: Way = plain("poll+recv", "poll");
const DRAIN: Way = plain("poll+recv until EAGAIN", "drain");
const MMSG: Way = plain("recvmmsg(64)", "mmsg");
const RING: Way = ring("ring, 128 frames of 2 KiB", "ring");

const STREAM: &[Way] = &[
    RECV,
    POLL,
    DRAIN,
    MMSG,
    RING,
    ring("ring, 256 frames of 16 KiB", "ring:16384:256"),
    device("ring through the device", "ring"),
    device("ring of 1024 frames through the device", "ring:2048:1024"),
];

const QUEUE: &[Way] = &[
    plain("recv+sendto", "recv"),
    plain("poll+recv+sendto", "poll"),
    plain("poll+(recv+sendto) until EAGAIN", "drain"),
    plain("by hand: recvmmsg, 64 verdicts joined", "mmsg"),
    ring("ring, kick per walk", "ring"),
    ring("ring, kick per 4 verdicts", "ring4"),
    ring("ring, kick per verdict", "ring1"),
    ring("ring of 1024 frames, kick per walk", "ring:2048:1024"),
];

const SOCKETS: &[Way] = &[
    plain("epoll+recv", "epoll"),
    plain("poll+recv", "poll"),
    ring("ring, epoll", "epollring"),
    ring("ring, poll", "ring"),
    device("ring through the device, epoll", "epollring"),
];

const fn stream(name: &'static str, title: &'static str, args: &'static [&'static str], count: [u64; 2]) -> Work {
    Work {
        name,
        title,
        unit: "message",
        kind: Kind::Rate,
        program: "flood",
        args,
        count,
        ways: STREAM,
        against: "poll+recv",
    }
}

const fn queue(name: &'static str, title: &'static str, args: &'static [&'static str], count: [u64; 2]) -> Work {
    let against = "poll+recv+sendto";
    Work { name, title, unit: "packet", kind: Kind::Rate, program: "nfqueue", args, count, ways: QUEUE, against }
}

const fn sockets(name: &'static str, title: &'static str, args: &'static [&'static str]) -> Work {
    let count = [300_000, 20_000];
    let against = "epoll+recv";
    Work { name, title, unit: "message", kind: Kind::Rate, program: "sockets", args, count, ways: SOCKETS, against }
}

const EVENTS: &[Way] = &[RECV, POLL, DRAIN, MMSG, RING, ring("ring of 1024 frames", "ring:2048:1024")];

const fn events(name: &'static str, title: &'static str, args: &'static [&'static str], count: [u64; 2]) -> Work {
    let against = "poll+recv";
    Work { name, title, unit: "message", kind: Kind::Rate, program: "events", args, count, ways: EVENTS, against }
}

/// All of it.
pub static ALL: &[Work] = &[
    stream("usersock-128", "USERSOCK, 128 bytes, sender at full speed", &["128", "COUNT", "flood"], [500_000, 30_000]),
    stream(
        "usersock-1500",
        "USERSOCK, 1500 bytes, sender at full speed",
        &["1500", "COUNT", "flood"],
        [300_000, 30_000],
    ),
    stream(
        "single-128",
        "USERSOCK, 128 bytes, the sender is the limit",
        &["128", "COUNT", "single"],
        [150_000, 10_000],
    ),
    stream(
        "stored-128",
        "USERSOCK, 128 bytes, all of it sent before the first is received",
        &["128", "COUNT", "stored"],
        [300_000, 30_000],
    ),
    Work {
        name: "routes",
        title: "route dump",
        unit: "route",
        kind: Kind::Rate,
        program: "routes",
        args: &["COUNT", "5"],
        count: [100_000, 20_000],
        ways: &[
            plain("recv of 64 KiB", "recv"),
            plain("poll+recv", "poll"),
            ring("ring, 256 frames of 16 KiB", "ring:16384:256"),
            ring("ring, 8 frames of 64 KiB", "ring:65536:8"),
            ring("ring, 64 frames of 4 KiB", "ring:4096:64"),
        ],
        against: "poll+recv",
    },
    queue("nfqueue-64", "NFQUEUE accept, 64 bytes of UDP", &["64", "COUNT"], [150_000, 10_000]),
    queue("nfqueue-1400", "NFQUEUE accept, 1400 bytes of UDP", &["1400", "COUNT"], [150_000, 10_000]),
    queue(
        "nfqueue-burst",
        "NFQUEUE accept, bursts of 4 000 packets, queue of 1 024",
        &["64", "COUNT", "burst"],
        [80_000, 8_000],
    ),
    Work {
        name: "requests",
        title: "requests with acknowledgement, 64 at a time",
        unit: "request",
        kind: Kind::Rate,
        program: "request",
        args: &["COUNT", "64"],
        count: [60_000, 6_000],
        ways: &[
            plain("sendto+recv each", "recv"),
            plain("sendto+poll+recv each", "poll"),
            plain("sendmmsg+recvmmsg", "mmsg"),
            plain("by hand: 64 in one datagram", "joined"),
            ring("ring, 64 TX frames a kick", "ring"),
            device("ring through the device", "ring"),
        ],
        against: "sendto+recv each",
    },
    Work {
        name: "latency",
        title: "request with acknowledgement, one at a time",
        unit: "request",
        kind: Kind::Latency,
        program: "request",
        args: &["COUNT", "1"],
        count: [60_000, 6_000],
        ways: &[
            plain("send+recv", "recv"),
            plain("send+poll+recv", "poll"),
            ring("ring, kick and head frame", "ring"),
            device("ring through the device", "ring"),
        ],
        against: "send+recv",
    },
    Work {
        name: "wakeup",
        title: "wake-up of an idle client",
        unit: "message",
        kind: Kind::Latency,
        program: "wakeup",
        args: &["COUNT"],
        count: [3_000, 300],
        ways: &[
            RECV,
            POLL,
            plain("the library's calls, bare", "calls"),
            RING,
            device("ring through the device", "ring"),
        ],
        against: "recv",
    },
    sockets("sockets-1", "1 socket, 128 bytes", &["1", "COUNT"]),
    sockets("sockets-8", "8 sockets, 128 bytes", &["8", "COUNT"]),
    sockets("sockets-64", "64 sockets, 128 bytes", &["64", "COUNT"]),
    events("events-route", "route events of the kernel", &["route", "COUNT"], [200_000, 10_000]),
    events("events-conntrack", "connection tracking events of the kernel", &["conntrack", "COUNT"], [200_000, 10_000]),
    events("events-nflog", "NFLOG, 64 bytes of UDP", &["nflog", "COUNT"], [150_000, 10_000]),
    Work {
        name: "growth",
        title: "USERSOCK, 128 bytes, rings of 8 to 65 536 frames",
        unit: "message",
        kind: Kind::Rate,
        program: "flood",
        args: &["128", "COUNT", "flood"],
        count: [500_000, 30_000],
        ways: &[
            ring("8 frames", "ring:512:8"),
            ring("64 frames", "ring:512:64"),
            ring("512 frames", "ring:512:512"),
            ring("4096 frames", "ring:512:4096"),
            ring("65536 frames", "ring:512:65536"),
        ],
        against: "64 frames",
    },
];

#[test]
fn every_work_has_the_way_it_is_compared_with() {
    for work in ALL {
        assert!(work.ways.iter().any(|w| w.label == work.against), "{}", work.name);
        assert_eq!(work.args.iter().filter(|a| **a == "COUNT").count(), 1, "{}", work.name);
        assert!(work.ways.iter().any(|w| w.ring), "{}", work.name);
    }
}
