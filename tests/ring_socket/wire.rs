//! Namespaces, commands, and messages by hand: what every test here uses.

use std::process::Command;
use std::time::Duration;

use nlmmap::{Family, Message, RingSocket};

/// Far more than anything here takes.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Runs `f` on a thread in a fresh network namespace.
pub fn in_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = || {
            // SAFETY: a number.
            let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "these tests make network namespaces: run them as root");
            f()
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A shell command in this thread's namespace.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// An attribute.
pub fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = ((4 + data.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A message.
pub fn message(kind: u16, flags: u16, sequence: u32, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut out = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Type of a message.
pub fn kind(part: &[u8]) -> u16 {
    u16_at(part, 4)
}

pub const NLM_F_REQUEST: u16 = 1;
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

/// The next message, which has to come.
#[track_caller]
pub fn next(socket: &RingSocket) -> Message<'_> {
    socket.recv_timeout(LIMIT).expect("a message").expect("no message in a long time")
}

/// The error of an acknowledgement (0, or a negative number).
#[track_caller]
pub fn acknowledgement(message: &[u8]) -> i32 {
    assert_eq!(kind(message), NLMSG_ERROR);
    i32::from_ne_bytes(message[16..20].try_into().unwrap())
}

/// Two USERSOCK sockets that know each other's port ids.
pub fn pair(build: impl Fn(nlmmap::Builder) -> nlmmap::Builder) -> (RingSocket, RingSocket, u32) {
    let a = RingSocket::builder(Family::USERSOCK).build().unwrap();
    let b = build(RingSocket::builder(Family::USERSOCK)).build().unwrap();
    let to = b.portid().unwrap();
    (a, b, to)
}

/// `len` bytes that tell which message they are of.
pub fn pattern(number: u32, len: usize) -> Vec<u8> {
    let mut out = number.to_ne_bytes().to_vec();
    out.extend((4..len).map(|i| (i as u32 * 31 + number * 7) as u8));
    out.truncate(len);
    out
}
