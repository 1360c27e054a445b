//! Requests in, replies out, byte by byte: the session's inside against a kernel that is a socket.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::*;
use crate::fuse::Nodes;
use crate::poll::PollNotifier;
use crate::reply::{Parked, ReplyError};
use crate::testing::{hex, request, sent, socket_pair};

/// Remembers what it was asked; answers as the first byte or argument says.
#[derive(Default)]
struct Probe {
    asked: Mutex<Vec<String>>,
    parked: Mutex<Option<Parked<ReadReply>>>,
    notifier: Mutex<Option<PollNotifier>>,
    next: Mutex<Option<Errno>>,
}

impl Probe {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn next(&self) -> Result<(), Errno> {
        self.next.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

impl Device for Probe {
    type File = u8;

    fn open(&self, request: &OpenRequest, reply: OpenReply<u8>) {
        let OpenRequest { caller: Caller { tid, uid, gid }, flags, .. } = request;
        self.note(format!("open {tid} {uid} {gid} {flags:#x} {:?}", request.sibling));
        match self.next() {
            Ok(()) => {
                *self.notifier.lock().unwrap() = Some(reply.notifier());
                reply.opened(9).unwrap();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn release(&self, handle: FileHandle, file: Arc<u8>) {
        self.note(format!("release {handle:?} {file}"));
    }

    fn read(&self, request: &ReadRequest, _: &Arc<u8>, reply: ReadReply) {
        self.note(format!("read {} {} {:#x}", request.size, request.offset, request.flags));
        match request.size {
            0 => *self.parked.lock().unwrap() = Some(reply.park()),
            2 => assert_eq!(reply.data(b"abc"), Err(ReplyError::TooLong)),
            _ => reply.data(b"abc").unwrap(),
        }
    }

    fn write(&self, request: &WriteRequest<'_>, _: &Arc<u8>, reply: WriteReply) {
        self.note(format!("write {:?}", request.data));
        match request.data {
            b"half" => reply.written(2).unwrap(),
            b"more" => assert_eq!(reply.written(5), Err(ReplyError::TooLong)),
            _ => reply.all_written().unwrap(),
        }
    }

    fn ioctl(&self, request: &IoctlRequest<'_>, _: &Arc<u8>, reply: IoctlReply) {
        let IoctlRequest { cmd, arg, data, out_size, compat, .. } = request;
        self.note(format!("ioctl {cmd:#x} {arg} {data:?} {out_size} {compat}"));
        match self.next() {
            Ok(()) => reply.done(5, &data[..data.len().min(*out_size as usize)]).unwrap(),
            Err(errno) => reply.error(errno),
        }
    }

    fn poll(&self, request: &PollRequest, _: &Arc<u8>) -> PollFlags {
        self.note(format!("poll {:?} {}", request.events, request.notify));
        PollFlags::IN | PollFlags::RDNORM
    }

    fn flush(&self, _: Caller, _: &Arc<u8>) -> Result<(), Errno> {
        self.note("flush".into());
        self.next()
    }

    fn fsync(&self, _: Caller, _: &Arc<u8>, data_only: bool) -> Result<(), Errno> {
        self.note(format!("fsync {data_only}"));
        self.next()
    }
}

struct Bench {
    core: Core<Probe>,
    kernel: OwnedFd,
}

impl Bench {
    fn cuse() -> Self {
        let (daemon, kernel) = socket_pair();
        let channel = Arc::new(Channel::new(daemon));
        Self { core: Core::new(Arc::default(), channel, None), kernel }
    }

    fn fuse() -> Self {
        let (daemon, kernel) = socket_pair();
        let channel = Arc::new(Channel::new(daemon));
        let nodes = Nodes::new(channel.clone(), true);
        let tree = Tree::for_tests(nodes, "ring", 0o640, 0x1122_3344);
        Self { core: Core::new(Arc::default(), channel, Some(tree)), kernel }
    }

    fn opened() -> Self {
        let bench = Self::cuse();
        bench.ask(14, 2, 0, &[0; 8]);
        bench.core.device.asked();
        bench
    }

    /// Sends a request; gives the reply.
    fn ask(&self, opcode: u32, unique: u64, node: u64, body: &[u8]) -> Option<Vec<u8>> {
        self.core.handle(&request(opcode, unique, node, body));
        sent(&self.kernel)
    }

    #[track_caller]
    fn expect(&self, opcode: u32, node: u64, body: &str, reply: &str) {
        let reply = hex(reply);
        let sent = self.ask(opcode, 6, node, &hex(body)).expect("a reply");
        assert_eq!(sent, reply, "got {sent:02x?}");
    }
}

const FH_1: &str = "0100000000000000";
const EIO: &str = "10000000 fbffffff 0600000000000000";
const EBADF: &str = "10000000 f7ffffff 0600000000000000";
const DONE: &str = "10000000 00000000 0600000000000000";

#[test]
fn cuse_open_and_release() {
    let bench = Bench::cuse();
    // fh 1, no flags: the kernel gives a character device none of the file's.
    let reply = "20000000 00000000 0600000000000000  0100000000000000 00000000 00000000";
    bench.expect(14, 0, "02880000 00000000", reply);
    assert_eq!(bench.core.device.asked(), ["open 3 1 2 0x8802 None"]);
    assert_eq!(bench.core.files.len(), 1);
    bench.expect(18, 0, &format!("{FH_1} 02880000 00000000 0000000000000000"), DONE);
    assert_eq!(bench.core.device.asked(), ["release #1 9"]);
    bench.expect(18, 0, &format!("{FH_1} 02880000 00000000 0000000000000000"), DONE);
    assert!(bench.core.device.asked().is_empty(), "released once");
    *bench.core.device.next.lock().unwrap() = Some(Errno::EBUSY);
    bench.expect(14, 0, "00000000 00000000", "10000000 f0ffffff 0600000000000000");
    *bench.core.device.next.lock().unwrap() = Some(Errno::ENOSYS);
    bench.expect(14, 0, "00000000 00000000", "10000000 a1ffffff 0600000000000000");
    assert_eq!(bench.core.files.len(), 0);
}

#[test]
fn read_and_write() {
    let bench = Bench::opened();
    let read = |size: &str| format!("{FH_1} 0005000000000000 {size} 00000000 0000000000000000 02080000 00000000");
    let reply = "13000000 00000000 0600000000000000 616263";
    bench.expect(15, 0, &read("03000000"), reply);
    bench.expect(15, 0, &read("02000000"), EIO);
    let asked = ["read 3 1280 0x802", "read 2 1280 0x802"];
    assert_eq!(bench.core.device.asked(), asked);
    let write = |size: &str, data: &str| {
        let flags = "00000000 0000000000000000 01000000 00000000";
        format!("{FH_1} 0000000000000000 {size} {flags} {data}")
    };
    let reply = |size| format!("18000000 00000000 0600000000000000 {size} 00000000");
    bench.expect(16, 0, &write("03000000", "616263"), &reply("03000000"));
    bench.expect(16, 0, &write("04000000", "68616c66"), &reply("02000000"));
    bench.expect(16, 0, &write("04000000", "6d6f7265"), EIO);
    assert_eq!(bench.core.device.asked()[0], "write [97, 98, 99]");
    assert_eq!(bench.core.channel.unanswered(), 0);
}

#[test]
fn ioctl() {
    let bench = Bench::opened();
    let rest = "0700000000000000 02000000 02000000 aabb";
    let body = format!("{FH_1} 01000000 01430280 {rest}");
    // result 5, no retry; then the argument's bytes.
    let reply = "22000000 00000000 0600000000000000  05000000 00000000 00000000 00000000 aabb";
    bench.expect(39, 0, &body, reply);
    assert_eq!(bench.core.device.asked(), ["ioctl 0x80024301 7 [170, 187] 2 true"]);
    for (errno, number) in [(Errno::ENOTTY, "e7ffffff"), (Errno::ENOSYS, "a1ffffff")] {
        *bench.core.device.next.lock().unwrap() = Some(errno);
        bench.expect(39, 0, &body, &format!("10000000 {number} 0600000000000000"));
    }
    // On a directory.
    let body = format!("{FH_1} 10000000 01430280 {rest}");
    bench.expect(39, 0, &body, "10000000 e7ffffff 0600000000000000");
}

#[test]
fn poll_and_its_notification() {
    let bench = Bench::opened();
    let notifier = bench.core.device.notifier.lock().unwrap().clone().unwrap();
    assert!(!notifier.notify(), "nobody waits");
    let reply = "18000000 00000000 0600000000000000 41000000 00000000";
    bench.expect(40, 0, &format!("{FH_1} 0b00000000000000 00000000 01000000"), reply);
    assert!(!notifier.notify(), "a look without sleep asks for nothing");
    bench.expect(40, 0, &format!("{FH_1} 0b00000000000000 01000000 41000000"), reply);
    assert!(notifier.notify());
    // unique 0, code NOTIFY_POLL, the handle.
    let notification = hex("18000000 01000000 0000000000000000 0b00000000000000");
    assert_eq!(sent(&bench.kernel), Some(notification));
    assert!(!notifier.notify(), "told once");
    assert_eq!(sent(&bench.kernel), None);
    let asked = ["poll PollFlags(0x1) false", "poll PollFlags(0x41) true"];
    assert_eq!(bench.core.device.asked(), asked);
    // Armed, then released; and the session ended.
    bench.expect(40, 0, &format!("{FH_1} 0b00000000000000 01000000 41000000"), reply);
    bench.expect(18, 0, &format!("{FH_1} 00000000 00000000 0000000000000000"), DONE);
    assert!(!notifier.notify());
    bench.core.close();
    assert!(!notifier.notify());
}

#[test]
fn flush_and_fsync() {
    let bench = Bench::opened();
    bench.expect(25, 0, &format!("{FH_1} 00000000 00000000 0900000000000000"), DONE);
    bench.expect(20, 0, &format!("{FH_1} 01000000 00000000"), DONE);
    *bench.core.device.next.lock().unwrap() = Some(Errno::ENOSYS);
    let reply = "10000000 a1ffffff 0600000000000000";
    bench.expect(20, 0, &format!("{FH_1} 00000000 00000000"), reply);
    assert_eq!(bench.core.device.asked(), ["flush", "fsync true", "fsync false"]);
}

#[test]
fn files_that_are_not_open() {
    let bench = Bench::cuse();
    for (opcode, len) in [(15, 40), (16, 40), (39, 32), (40, 24), (25, 24), (20, 16)] {
        bench.expect(opcode, 0, &"00".repeat(len), EBADF);
    }
    assert!(bench.core.device.asked().is_empty());
}

#[test]
fn interrupts() {
    let bench = Bench::opened();
    // Of a request that is not here: ask again.
    let again = hex("10000000 f5ffffff 0700000000000000");
    assert_eq!(bench.ask(36, 7, 0, &6u64.to_ne_bytes()), Some(again));
    // A read that waits.
    let mut body = [0; 40];
    body[0] = 1;
    assert_eq!(bench.ask(15, 6, 0, &body), None);
    assert_eq!(bench.core.channel.unanswered(), 1);
    let eintr = hex("10000000 fcffffff 0600000000000000");
    assert_eq!(bench.ask(36, 7, 0, &6u64.to_ne_bytes()), Some(eintr), "and none for itself");
    let parked = bench.core.device.parked.lock().unwrap().take().unwrap();
    assert!(parked.take().is_none(), "the interrupt has it");
    assert_eq!(bench.core.channel.unanswered(), 0);
    // One that is answered first.
    assert_eq!(bench.ask(15, 8, 0, &body), None);
    let parked = bench.core.device.parked.lock().unwrap().take().unwrap();
    assert!(parked.is_waiting());
    parked.clone().take().unwrap().data(b"").unwrap();
    assert_eq!(sent(&bench.kernel), Some(hex("10000000 00000000 0800000000000000")));
    // One that is forgotten.
    assert_eq!(bench.ask(15, 6, 0, &body), None);
    drop(bench.core.device.parked.lock().unwrap().take());
    assert_eq!(sent(&bench.kernel), Some(hex(EIO)));
}

#[test]
fn an_interrupt_that_comes_before_the_hook() {
    let bench = Bench::cuse();
    let answer = Answer::new(&bench.core.channel, 6);
    let reply = ReadReply::new(answer, 8);
    assert!(!reply.is_interrupted());
    assert_eq!(bench.ask(36, 7, 0, &6u64.to_ne_bytes()), None);
    assert!(reply.is_interrupted());
    let parked = reply.park();
    assert_eq!(sent(&bench.kernel), Some(hex("10000000 fcffffff 0600000000000000")));
    assert!(parked.take().is_none());
}

#[test]
fn the_end() {
    let bench = Bench::opened();
    let mut body = [0; 40];
    body[0] = 1;
    bench.ask(15, 6, 0, &body);
    bench.core.close();
    assert_eq!(bench.core.device.asked(), ["read 0 0 0x0", "release #1 9"]);
    let parked = bench.core.device.parked.lock().unwrap().take().unwrap();
    assert_eq!(parked.take().unwrap().data(b""), Err(ReplyError::Gone));
    let bench = Bench::cuse();
    assert_eq!(bench.core.handle(&request(38, 6, 0, &[])), Flow::End);
    assert_eq!(sent(&bench.kernel), Some(hex(DONE)));
}

#[test]
fn what_a_device_does_not_know() {
    let bench = Bench::cuse();
    for opcode in [1, 3, 4, 5, 17, 27, 43, 50, 4097] {
        let body = "00".repeat(64);
        bench.expect(opcode, 0, &body, "10000000 daffffff 0600000000000000");
    }
    // Broken bodies are refused, broken messages and answers to nothing are not answered.
    bench.expect(15, 0, "00", "10000000 eaffffff 0600000000000000");
    assert_eq!(bench.core.handle(&[1, 2, 3]), Flow::Continue);
    assert_eq!(bench.ask(41, 6, 0, &[]), None);
}

#[test]
fn the_directory() {
    let bench = Bench::fuse();
    let time = "4433221100000000".repeat(3);
    let nanos = "00000000".repeat(3);
    let file = |size: &str, blocks: &str| {
        format!(
            "0200000000000000 {size} {blocks} {time} {nanos}
             a0810000 01000000 00000000 feff0000 00000000 00100000 00000000"
        )
    };
    let none = "0000000000000000";
    // LOOKUP: node 2, generation 0, valid for no time.
    let zero = none.repeat(3);
    let entry = format!(
        "90000000 00000000 0600000000000000
         0200000000000000 {zero} 00000000 00000000 {}",
        file(none, none)
    );
    bench.expect(1, 1, "72696e6700", &entry);
    bench.expect(1, 1, "72696e6721 00", "10000000 feffffff 0600000000000000");
    bench.expect(1, 2, "72696e6700", "10000000 ecffffff 0600000000000000");
    let again = bench.ask(1, 6, 1, b"ring\0").unwrap();
    assert_eq!(again[16], 3, "a node of its own");
    // GETATTR of the file, of the directory, of nothing.
    let getattr = "00000000 00000000 0000000000000000";
    let attr = format!("78000000 00000000 0600000000000000 {none} 00000000 00000000 {}", file(none, none));
    bench.expect(3, 2, getattr, &attr);
    let root = format!(
        "78000000 00000000 0600000000000000 100e000000000000 00000000 00000000
         0100000000000000 {none} {none} {time} {nanos}
         ed410000 02000000 00000000 00000000 00000000 00100000 00000000"
    );
    bench.expect(3, 1, getattr, &root);
    bench.expect(3, 99, getattr, "10000000 8cffffff 0600000000000000");
    // OPENDIR, READDIR, RELEASEDIR.
    let opendir = format!("20000000 00000000 0600000000000000 {none} 00000000 00000000");
    bench.expect(27, 1, "00000000 00000000", &opendir);
    let readdir = |offset: &str, size: &str| format!("{none} {offset} {size} 00000000 {none} 00000000 00000000");
    let entries = "
        0100000000000000 0100000000000000 01000000 04000000 2e00000000000000
        0100000000000000 0200000000000000 02000000 04000000 2e2e000000000000";
    let last = "0200000000000000 0300000000000000 04000000 08000000 72696e6700000000";
    let all = format!("70000000 00000000 0600000000000000 {entries} {last}");
    bench.expect(28, 1, &readdir(none, "00100000"), &all);
    let two = format!("50000000 00000000 0600000000000000 {entries}");
    bench.expect(28, 1, &readdir(none, "5f000000"), &two);
    let rest = format!("30000000 00000000 0600000000000000 {last}");
    bench.expect(28, 1, &readdir("0200000000000000", "00100000"), &rest);
    bench.expect(28, 1, &readdir("0300000000000000", "00100000"), DONE);
    bench.expect(29, 1, &"00".repeat(24), DONE);
    bench.expect(34, 1, "04000000 00000000", DONE);
    bench.expect(30, 1, "", DONE);
    // STATFS.
    let zero = none.repeat(5);
    let spare = none.repeat(3);
    let statfs = format!("60000000 00000000 0600000000000000 {zero} 00100000 ff000000 00100000 00000000 {spare}");
    bench.expect(17, 1, "", &statfs);
    // Refused: SETATTR, FALLOCATE; unknown: the rest.
    bench.expect(4, 2, &"00".repeat(88), "10000000 ffffffff 0600000000000000");
    bench.expect(43, 2, &"00".repeat(32), "10000000 a1ffffff 0600000000000000");
    bench.expect(22, 2, "", "10000000 daffffff 0600000000000000");
    // FORGET and BATCH_FORGET are not answered.
    assert_eq!(bench.core.tree.as_ref().unwrap().nodes.count(), (2, 0));
    assert_eq!(bench.ask(2, 6, 2, &1u64.to_ne_bytes()), None);
    let batch = hex("01000000 00000000 0300000000000000 0100000000000000");
    assert_eq!(bench.ask(42, 6, 0, &batch), None);
    assert_eq!(bench.core.tree.as_ref().unwrap().nodes.count(), (0, 0));
}

#[test]
fn fuse_open() {
    let bench = Bench::fuse();
    bench.ask(1, 6, 1, b"ring\0");
    // Without memory a stream: DIRECT_IO, STREAM, NOFLUSH, PARALLEL_DIRECT_WRITES.
    let reply = "20000000 00000000 0600000000000000  0100000000000000 71000000 00000000";
    bench.expect(14, 2, "02800000 00000000", reply);
    let reply = "20000000 00000000 0600000000000000  0200000000000000 71000000 00000000";
    bench.expect(14, 2, "02800000 00000000", reply);
    let asked = ["open 3 1 2 0x8002 None", "open 3 1 2 0x8002 Some(#1)"];
    assert_eq!(bench.core.device.asked(), asked);
    bench.expect(14, 77, "02800000 00000000", "10000000 8cffffff 0600000000000000");
    assert!(bench.core.device.asked().is_empty(), "no such node");
}

/// The kernel goes away in the middle of an open: the file is not open, and the node not leaked.
#[test]
fn an_open_that_cannot_be_answered() {
    struct Failing(Mutex<Option<ReplyError>>);
    impl Device for Failing {
        type File = ();
        fn open(&self, _: &OpenRequest, reply: OpenReply<()>) {
            *self.0.lock().unwrap() = reply.opened(()).err();
        }
        fn release(&self, _: FileHandle, _: Arc<()>) {
            panic!("it was never open");
        }
    }
    let (daemon, kernel) = socket_pair();
    let channel = Arc::new(Channel::new(daemon));
    let nodes = Nodes::new(channel.clone(), true);
    let node = nodes.looked_up();
    let tree = Tree::for_tests(nodes.clone(), "ring", 0o600, 0);
    let core = Core::new(Arc::new(Failing(Mutex::default())), channel, Some(tree));
    drop(kernel);
    core.handle(&request(14, 6, node, &[0; 8]));
    assert_eq!(*core.device.0.lock().unwrap(), Some(ReplyError::Gone));
    assert_eq!((core.files.len(), core.channel.unanswered()), (0, 0));
    nodes.forget(node, 1);
    assert_eq!(nodes.count(), (0, 0));
    core.close();
}
