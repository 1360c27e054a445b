//! A client of the rings in rust, as one links it with musl or `crt-static`: the standard library, and the C library's calls.
//!
//! ring dump:    links by a kick and frames from several threads, beside the same by recv
//! ring queue N: N packets judged by frames and kicks
//! Prints what it has found. Exit status: that of tests/clients/ring.h.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::io::{Error, ErrorKind};
use std::net::UdpSocket;
use std::process::exit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

#[repr(C)]
#[derive(Default)]
struct Name {
    family: u16,
    pad: u16,
    port: u32,
    groups: u32,
}

unsafe extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, name: *const Name, len: u32) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int;
    fn mmap(at: *mut c_void, len: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
    fn sendto(fd: c_int, data: *const c_void, len: usize, flags: c_int, name: *const Name, name_len: u32) -> isize;
    fn recv(fd: c_int, data: *mut c_void, len: usize, flags: c_int) -> isize;
    fn poll(entries: *mut PollFd, count: u64, time: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
}

const AF_NETLINK: c_int = 16;
const RAW: c_int = 3 | 0o2_000_000;
const SOL_NETLINK: c_int = 270;
const RX_RING: c_int = 6;
const TX_RING: c_int = 7;
const ROUTE: c_int = 0;
const NETFILTER: c_int = 12;
const UNUSED: u32 = 0;
const VALID: u32 = 2;
const COPY: u32 = 3;
const HEADER: usize = 24;
const IN: i16 = 1;

macro_rules! fail {
    ($($words:tt)*) => {{ eprintln!($($words)*); exit(1) }};
}

fn must(result: isize, what: &str) -> isize {
    if result < 0 { fail!("{what}: {}", Error::last_os_error()) } else { result }
}

struct Ring {
    base: *mut u8,
    frame: usize,
    count: usize,
    at: usize,
}

impl Ring {
    fn word(&self, index: usize) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long as the socket's value.
        unsafe { &*self.base.add(self.at * self.frame + 4 * index).cast::<AtomicU32>() }
    }

    fn payload(&self, len: usize) -> Vec<u8> {
        if len > self.frame - HEADER {
            fail!("a frame of {len} bytes");
        }
        // SAFETY: within the frame, as was just looked at; nobody writes to it before it is released.
        unsafe { std::slice::from_raw_parts(self.base.add(self.at * self.frame + HEADER), len) }.to_vec()
    }

    fn next(&mut self) {
        self.at = (self.at + 1) % self.count;
    }
}

struct Socket {
    fd: c_int,
    map: *mut u8,
    len: usize,
    rx: Ring,
    tx: Ring,
}

fn bound(protocol: c_int) -> c_int {
    let name = Name { family: 16, ..Name::default() };
    // SAFETY: numbers, and a name of the stated length.
    unsafe {
        let fd = must(socket(AF_NETLINK, RAW, protocol) as isize, "socket") as c_int;
        must(bind(fd, &name, 12) as isize, "bind");
        fd
    }
}

impl Socket {
    fn open(protocol: c_int, frame: usize, count: usize) -> Socket {
        let fd = bound(protocol);
        let shape = [(frame * count) as u32, 1, frame as u32, count as u32];
        for option in [RX_RING, TX_RING] {
            // SAFETY: four words.
            if unsafe { setsockopt(fd, SOL_NETLINK, option, shape.as_ptr().cast(), 16) } < 0 {
                let error = Error::last_os_error();
                if error.raw_os_error() == Some(92) {
                    eprintln!("refused: Protocol not available");
                    exit(3);
                }
                fail!("ring {option}: {error}");
            }
        }
        let len = 2 * frame * count;
        // SAFETY: a new mapping, readable, writable and shared.
        let map = unsafe { mmap(std::ptr::null_mut(), len, 3, 1, fd, 0) }.cast::<u8>();
        if map as isize == -1 {
            fail!("mmap: {}", Error::last_os_error());
        }
        let rx = Ring { base: map, frame, count, at: 0 };
        // SAFETY: the second half of the mapping.
        let tx = Ring { base: unsafe { map.add(len / 2) }, frame, count, at: 0 };
        Socket { fd, map, len, rx, tx }
    }

    fn put(&mut self, message: &[u8]) {
        if self.tx.word(0).load(Ordering::Acquire) != UNUSED {
            fail!("the transmit frame is not free");
        }
        // SAFETY: an unused frame is this side's, and the messages here are far shorter.
        unsafe {
            let to = self.tx.base.add(self.tx.at * self.tx.frame + HEADER);
            to.copy_from_nonoverlapping(message.as_ptr(), message.len());
        }
        self.tx.word(1).store(message.len() as u32, Ordering::Relaxed);
        self.tx.word(0).store(VALID, Ordering::Release);
        self.tx.next();
    }

    fn kick(&self) -> isize {
        // SAFETY: no bytes, and no name.
        must(unsafe { sendto(self.fd, std::ptr::null(), 0, 0, std::ptr::null(), 0) }, "kick")
    }

    /// The next message, when it is there.
    fn take(&mut self) -> Vec<u8> {
        loop {
            let message = match self.rx.word(0).load(Ordering::Acquire) {
                VALID => self.rx.payload(self.rx.word(1).load(Ordering::Relaxed) as usize),
                COPY => receive(self.fd),
                _ => {
                    let mut entry = PollFd { fd: self.fd, events: IN, revents: 0 };
                    // SAFETY: one entry.
                    match unsafe { poll(&mut entry, 1, 5000) } {
                        0 => fail!("no message within 5 s"),
                        1 if entry.revents == IN && self.rx.word(0).load(Ordering::Acquire) != UNUSED => {}
                        1 => fail!("poll says {}, and the head frame is not there", entry.revents),
                        _ if Error::last_os_error().kind() == ErrorKind::Interrupted => {}
                        _ => fail!("poll: {}", Error::last_os_error()),
                    }
                    continue;
                }
            };
            self.rx.word(0).store(UNUSED, Ordering::Release);
            self.rx.next();
            return message;
        }
    }

    fn is_ready(&self) -> bool {
        self.rx.word(0).load(Ordering::Acquire) != UNUSED
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: this value's own.
        unsafe {
            must(munmap(self.map.cast(), self.len) as isize, "munmap");
            must(close(self.fd) as isize, "close");
        }
    }
}

fn receive(fd: c_int) -> Vec<u8> {
    let mut data = vec![0; 65536];
    // SAFETY: room of the stated length.
    let len = must(unsafe { recv(fd, data.as_mut_ptr().cast(), data.len(), 0) }, "recv");
    data.truncate(len as usize);
    data
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// `RTM_GETLINK`, for all.
fn dump_request(seq: u32) -> Vec<u8> {
    let mut message = vec![0; 32];
    message[..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&18u16.to_ne_bytes());
    message[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    message[8..12].copy_from_slice(&seq.to_ne_bytes());
    message
}

/// Adds the links of one part, index and name; whether it ends the dump.
fn links(mut part: &[u8], seq: u32, found: &mut BTreeSet<(u32, String)>) -> bool {
    while part.len() >= 16 {
        let (len, kind) = (u32_at(part, 0) as usize, u16_at(part, 4));
        if u32_at(part, 8) != seq {
            fail!("a message of request {} instead of {seq}", u32_at(part, 8));
        }
        if kind == 3 {
            return true;
        }
        let mut at = 32;
        while at + 4 <= len {
            let size = u16_at(part, at) as usize;
            if u16_at(part, at + 2) == 3 {
                let name = String::from_utf8_lossy(&part[at + 4..at + size - 1]).into_owned();
                if !found.insert((u32_at(part, 20), name)) {
                    fail!("a link comes twice");
                }
            }
            at += size.next_multiple_of(4);
        }
        part = &part[len.next_multiple_of(4).min(part.len())..];
    }
    false
}

fn dump(rounds: u32) {
    let plain = bound(ROUTE);
    let request = dump_request(7);
    // SAFETY: a message of the stated length.
    must(unsafe { sendto(plain, request.as_ptr().cast(), request.len(), 0, std::ptr::null(), 0) }, "sendto");
    let mut by_recv = BTreeSet::new();
    while !links(&receive(plain), 7, &mut by_recv) {}
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut socket = Socket::open(ROUTE, 16384, 8);
                for seq in 1..=rounds {
                    socket.put(&dump_request(seq));
                    if socket.kick() != 32 {
                        fail!("the kick says another length");
                    }
                    let mut found = BTreeSet::new();
                    while !links(&socket.take(), seq, &mut found) {}
                    if found != by_recv {
                        fail!("by frames {found:?}, by recv {by_recv:?}");
                    }
                }
            });
        }
    });
    println!("{by_recv:?}");
}

/// A message of nfnetlink_queue's, for queue 5.
fn message(kind: u16, flags: u16, seq: u32, attribute: u16, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 20];
    message[19] = 5;
    message.extend((4 + body.len() as u16).to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message[4..6].copy_from_slice(&(3 << 8 | kind).to_ne_bytes());
    message[6..8].copy_from_slice(&(flags | 1).to_ne_bytes());
    message[8..12].copy_from_slice(&seq.to_ne_bytes());
    message
}

fn queue(count: u32) {
    const ACK: u16 = 4;
    let mut socket = Socket::open(NETFILTER, 2048, 64);
    // Bind, and copy whole packets; each is acknowledged.
    socket.put(&message(2, ACK, 1, 1, &[1, 0, 0, 2]));
    socket.put(&message(2, ACK, 2, 2, &[0, 0, 255, 255, 2]));
    socket.kick();
    for seq in 1..=2 {
        let ack = socket.take();
        if u16_at(&ack, 4) != 2 || u32_at(&ack, 8) != seq || u32_at(&ack, 16) != 0 {
            fail!("not the acknowledgement of {seq}: {ack:?}");
        }
    }
    let receiver = UdpSocket::bind("127.0.0.1:9999").unwrap_or_else(|e| fail!("bind: {e}"));
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let passed = std::thread::spawn(move || {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|e| fail!("bind: {e}"));
        for number in 0..count {
            sender.send_to(&number.to_ne_bytes(), "127.0.0.1:9999").unwrap_or_else(|e| fail!("send: {e}"));
            // Not more than a socket's buffer holds are under way.
            if number % 32 == 31 || number + 1 == count {
                for expected in number - number % 32..=number {
                    let mut data = [0; 4];
                    receiver.recv(&mut data).unwrap_or_else(|e| fail!("packet {expected}: {e}"));
                    if u32::from_ne_bytes(data) != expected {
                        fail!("packet {} instead of {expected}", u32::from_ne_bytes(data));
                    }
                }
            }
        }
        count
    });
    for judged in 1..=count {
        let packet = socket.take();
        if u16_at(&packet, 4) != 3 << 8 || u16_at(&packet, 22) != 1 {
            fail!("no packet: {packet:?}");
        }
        // NFQA_PACKET_HDR is the first attribute; its id the first word of it.
        let verdict: Vec<u8> = [0, 0, 0, 1].iter().chain(&packet[24..28]).copied().collect();
        socket.put(&message(1, 0, 0, 2, &verdict));
        if judged % 16 == 0 || !socket.is_ready() {
            socket.kick();
        }
    }
    println!("{} packets judged and passed", passed.join().unwrap_or_else(|_| fail!("the sender")));
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let count = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    match words.first().map(String::as_str) {
        Some("dump") => dump(count),
        Some("queue") => queue(count),
        _ => fail!("usage: ring dump|queue N"),
    }
}
