//! Every request, byte by byte, and any bytes at all.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::super::abi::{BatchForgetIn, IoctlIn, OpenIn, PollIn, ReadIn, WriteIn};
use super::{Operation, ParseError, Request};
use crate::protocol::opcode;
use crate::testing::{hex, request};

fn parse(bytes: &[u8]) -> Operation<'_> {
    Request::parse(bytes).unwrap().operation
}

/// The header all requests share, and a READ behind it.
#[test]
#[cfg(target_endian = "little")]
fn header_and_read() {
    let bytes = hex("
        50000000 0f000000           # len 80, READ
        0600000000000000            # unique
        0200000000000000            # node
        e8030000 64000000 39300000  # uid 1000, gid 100, thread 12345
        0000 0000                   # extensions, padding
        0700000000000000            # fh
        0010000000000000            # offset 4096
        00020000 00000000           # size 512, read flags
        0000000000000000            # lock owner
        02080000 00000000           # O_RDWR | O_NONBLOCK, padding");
    let Request { header, operation } = Request::parse(&bytes).unwrap();
    assert_eq!((header.len, header.opcode, header.unique, header.nodeid), (80, 15, 6, 2));
    assert_eq!((header.uid, header.gid, header.pid), (1000, 100, 12345));
    let read = ReadIn { fh: 7, offset: 4096, size: 512, flags: 0o4002, ..ReadIn::default() };
    assert_eq!(operation, Operation::Read(read));
}

#[test]
#[cfg(target_endian = "little")]
fn handshakes() {
    let cuse = request(4096, 2, 0, &hex("07000000 1f000000 00000000 01000000"));
    let Operation::CuseInit(init) = parse(&cuse) else { panic!() };
    assert_eq!((init.major, init.minor, init.flags), (7, 31, 1));
    let short = request(26, 2, 0, &hex("07000000 1f000000 00000200 00000040"));
    let Operation::FuseInit(init, ext) = parse(&short) else { panic!() };
    assert_eq!((init.major, init.minor, init.max_readahead), (7, 31, 0x20000));
    assert_eq!((init.flags, ext.flags2), (1 << 30, 0), "kernels before 5.17 send 16 bytes");
    let mut body = hex("07000000 28000000 00000200 00000040 20000000");
    body.resize(64, 0);
    let long = request(26, 2, 0, &body);
    let Operation::FuseInit(init, ext) = parse(&long) else { panic!() };
    assert_eq!((init.minor, ext.flags2), (40, 32));
}

#[test]
#[cfg(target_endian = "little")]
fn operations_on_open_files() {
    let open = request(14, 2, 5, &hex("02800000 00000000"));
    assert_eq!(parse(&open), Operation::Open(OpenIn { flags: 0x8002, open_flags: 0 }));

    let body = hex("0700000000000000 02800000 01000000 0900000000000000");
    let release = request(18, 2, 5, &body);
    let Operation::Release(release) = parse(&release) else { panic!() };
    assert_eq!((release.fh, release.flags, release.release_flags), (7, 0x8002, 1));
    assert_eq!(release.lock_owner, 9);

    let body = hex("
        0700000000000000 0000000000000000  # fh, offset
        03000000 00000000                  # size, write flags
        0000000000000000                   # lock owner
        01000000 00000000                  # O_WRONLY, padding
        616263 6465                        # the data, and more than size says");
    let write = request(16, 2, 5, &body);
    let head = WriteIn { fh: 7, size: 3, flags: 1, ..WriteIn::default() };
    assert_eq!(parse(&write), Operation::Write(head, b"abc"));

    let body = hex("
        0700000000000000                   # fh
        00000000 024308c0                  # flags, cmd
        efbeadde00000000                   # arg
        08000000 08000000                  # in, out
        0102030405060708");
    let ioctl = request(39, 2, 5, &body);
    let (cmd, arg) = (0xc008_4302, 0xdead_beef);
    let head = IoctlIn { fh: 7, flags: 0, cmd, arg, in_size: 8, out_size: 8 };
    assert_eq!(parse(&ioctl), Operation::Ioctl(head, &[1, 2, 3, 4, 5, 6, 7, 8]));

    let poll = request(40, 2, 5, &hex("0700000000000000 0b00000000000000 01000000 41000000"));
    let wanted = PollIn { fh: 7, kh: 11, flags: 1, events: 0x41 };
    assert_eq!(parse(&poll), Operation::Poll(wanted));

    let flush = request(25, 2, 5, &hex("0700000000000000 00000000 00000000 0900000000000000"));
    let Operation::Flush(flush) = parse(&flush) else { panic!() };
    assert_eq!((flush.fh, flush.lock_owner), (7, 9));

    let fsync = request(20, 2, 5, &hex("0700000000000000 01000000 00000000"));
    let Operation::Fsync(fsync) = parse(&fsync) else { panic!() };
    assert_eq!((fsync.fh, fsync.fsync_flags), (7, opcode::FSYNC_FDATASYNC));

    let interrupt = request(36, 7, 0, &hex("0600000000000000"));
    let Operation::Interrupt(interrupt) = parse(&interrupt) else { panic!() };
    assert_eq!(interrupt.unique, 6);
}

#[test]
#[cfg(target_endian = "little")]
fn names_and_attributes() {
    assert_eq!(parse(&request(1, 2, 1, b"ring\0")), Operation::Lookup { name: b"ring" });
    assert_eq!(parse(&request(1, 2, 1, b"\0\0")), Operation::Lookup { name: b"" });

    let forget = request(2, 2, 5, &hex("0300000000000000"));
    let Operation::Forget(forget) = parse(&forget) else { panic!() };
    assert_eq!(forget.nlookup, 3);

    let body = hex("
        02000000 00000000                  # count
        0500000000000000 0100000000000000  # node, look-ups
        0600000000000000 0200000000000000");
    let batch = request(42, 2, 0, &body);
    let Operation::BatchForget(list) = parse(&batch) else { panic!() };
    let pairs: Vec<_> = list.iter().map(|one| (one.nodeid, one.nlookup)).collect();
    assert_eq!(pairs, [(5, 1), (6, 2)]);

    let getattr = request(3, 2, 5, &hex("01000000 00000000 0700000000000000"));
    let Operation::Getattr(getattr) = parse(&getattr) else { panic!() };
    assert_eq!((getattr.getattr_flags, getattr.fh), (1, 7));

    let access = request(34, 2, 5, &hex("04000000 00000000"));
    let Operation::Access(access) = parse(&access) else { panic!() };
    assert_eq!(access.mask, 4);

    let opendir = request(27, 2, 1, &hex("00880000 00000000"));
    assert_eq!(parse(&opendir), Operation::Opendir(OpenIn { flags: 0x8800, open_flags: 0 }));

    let mut body = hex("0000000000000000 0200000000000000 00100000 00000000");
    body.resize(40, 0);
    let readdir = request(28, 2, 1, &body);
    let wanted = ReadIn { offset: 2, size: 4096, ..ReadIn::default() };
    assert_eq!(parse(&readdir), Operation::Readdir(wanted));
    assert!(matches!(parse(&request(29, 2, 1, &[0; 24])), Operation::Releasedir(_)));

    for (code, wanted) in [
        (opcode::SETATTR, Operation::Setattr),
        (opcode::STATFS, Operation::Statfs),
        (opcode::FSYNCDIR, Operation::Fsyncdir),
        (opcode::FALLOCATE, Operation::Fallocate),
        (opcode::DESTROY, Operation::Destroy),
        (opcode::NOTIFY_REPLY, Operation::NotifyReply),
        (22, Operation::Unknown),
        (u32::MAX, Operation::Unknown),
    ] {
        assert_eq!(parse(&request(code, 2, 1, &[])), wanted);
    }
}

#[test]
fn what_is_not_a_request() {
    assert_eq!(Request::parse(&[0; 39]), Err(ParseError::NoHeader { len: 39 }));
    let mut bytes = request(opcode::STATFS, 2, 1, &[]);
    bytes[..4].copy_from_slice(&41u32.to_ne_bytes());
    assert_eq!(Request::parse(&bytes), Err(ParseError::Length { len: 40, says: 41 }));
    bytes[..4].copy_from_slice(&39u32.to_ne_bytes());
    assert_eq!(Request::parse(&bytes), Err(ParseError::Length { len: 40, says: 39 }));
    let says = Request::parse(&bytes).unwrap_err().to_string();
    assert_eq!(says, "a request of 40 bytes says that it has 39");
}

/// Bodies that are one byte short, or whose lengths lie.
#[test]
fn broken_bodies_name_their_request() {
    for (code, len) in [
        (opcode::CUSE_INIT, 16),
        (opcode::INIT, 16),
        (opcode::FORGET, 8),
        (opcode::BATCH_FORGET, 8),
        (opcode::GETATTR, 16),
        (opcode::ACCESS, 8),
        (opcode::OPENDIR, 8),
        (opcode::READDIR, 40),
        (opcode::RELEASEDIR, 24),
        (opcode::OPEN, 8),
        (opcode::RELEASE, 24),
        (opcode::READ, 40),
        (opcode::WRITE, 40),
        (opcode::IOCTL, 32),
        (opcode::POLL, 24),
        (opcode::FLUSH, 24),
        (opcode::FSYNC, 16),
        (opcode::INTERRUPT, 8),
    ] {
        let body = vec![0; len];
        Request::parse(&request(code, 6, 1, &body)).expect("just enough");
        let short = request(code, 6, 1, &body[1..]);
        let broken = Err(ParseError::Body { unique: 6, opcode: code });
        assert_eq!(Request::parse(&short), broken, "operation {code}");
    }
    use zerocopy::IntoBytes;
    let write = WriteIn { size: 1, ..WriteIn::default() };
    let ioctl = IoctlIn { in_size: u32::MAX, ..IoctlIn::default() };
    let forgets = BatchForgetIn { count: u32::MAX, dummy: 0 };
    for (code, body) in [
        (opcode::WRITE, write.as_bytes()),
        (opcode::IOCTL, ioctl.as_bytes()),
        (opcode::BATCH_FORGET, forgets.as_bytes()),
        (opcode::LOOKUP, b"no end"),
        (opcode::LOOKUP, b""),
    ] {
        let broken = Err(ParseError::Body { unique: 6, opcode: code });
        assert_eq!(Request::parse(&request(code, 6, 1, body)), broken);
    }
}

fn any_opcode() -> impl Strategy<Value = u32> {
    prop_oneof![0..60u32, Just(opcode::CUSE_INIT), any::<u32>()]
}

/// Few under miri, which takes a thousand times as long; each of its seeds makes others.
fn config() -> ProptestConfig {
    let all = ProptestConfig::default();
    ProptestConfig { cases: if cfg!(miri) { 3 } else { all.cases }, ..all }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_parse_or_do_not(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Request::parse(&bytes);
    }

    /// With a header that holds, parsing is total: a request, or one that can be refused by its id.
    #[test]
    fn any_body_is_served_or_refused(
        code in any_opcode(),
        unique in any::<u64>(),
        body in vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200),
    ) {
        match Request::parse(&request(code, unique, 1, &body)) {
            Ok(request) => {
                if let Operation::BatchForget(list) = request.operation {
                    assert!(list.iter().count() * 16 <= body.len());
                }
            }
            Err(error) => assert_eq!(error, ParseError::Body { unique, opcode: code }),
        }
    }

    /// What stands behind the request in the buffer changes nothing.
    #[test]
    fn the_rest_of_the_buffer_does_not_matter(
        code in any_opcode(),
        body in vec(any::<u8>(), 0..100),
        rest in vec(any::<u8>(), 0..100),
    ) {
        let alone = request(code, 2, 1, &body);
        let mut followed = alone.clone();
        followed.extend(rest);
        assert_eq!(Request::parse(&alone), Request::parse(&followed));
    }
}

/// The fuzzer's seeds and what it has found stay parsed without a panic.
#[test]
fn corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/request");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let _ = Request::parse(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 20, "{count} files");
}
