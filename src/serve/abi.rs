//! The device's ioctls: the Rust side of `include/nlmmap.h`.
//!
//! Arguments are plain 32- and 64-bit words in native byte order, without padding that carries meaning.

use nlmmap_ring::abi::nl_mmap_req;
use nlmmap_ring::sys::SockaddrNl;

/// Version of the interface.
pub const ABI: u32 = 1;
pub const NODE_FUSE: u32 = 1;
pub const NODE_CUSE: u32 = 2;
pub const F_MAP_NODE: u64 = 1;
pub const F_MAP_MEMORY: u64 = 2;
/// What a socket call needs beside the rings: everything from `GETPEERNAME` on.
pub const F_SOCKET_CALLS: u64 = 4;
/// In the type of a socket: answer as 4.5 did.
pub const SOCKET_STRICT: u32 = 1 << 31;
/// In the flags of a send: this is no message, but says where this thread's next `write` goes.
pub const SEND_NEXT: u32 = 1 << 31;
/// In the flags of a received message: it is longer than any argument, and stays; its parts come by [`PART`].
pub const MESSAGE_STAYS: u32 = 1 << 31;
/// Bytes of a message that one argument carries at most.
pub const MESSAGE_ROOM: usize = 16000;
/// Room for ancillary data in an argument.
pub const CONTROL_ROOM: usize = 256;
pub const STATE_RX: u32 = 1;
pub const STATE_TX: u32 = 2;
pub const MAP_NODE: u32 = 1;
pub const MAP_MEMORY: u32 = 2;

/// A structure that is words only: any bytes are a value of it, and it has no padding.
///
/// # Safety
/// The type is `repr(C)`, made of integers, and its size is the sum of its fields' sizes.
pub unsafe trait Words: Copy + Default {}

macro_rules! words {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind),* }
        // SAFETY: integers and structures of them in C order; the assertion below rules out padding.
        unsafe impl Words for $name {}
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$kind>())*);
    )*};
}

words! {
    struct Version { abi: u32, node: u32, features: u64 }
    struct Socket { kind: u32, protocol: u32 }
    struct SockOpt { level: i32, name: i32, value: i32 }
    struct MapInfo { how: u32, pad: u32, rx_len: u64, tx_len: u64 }
    struct Kick { dest: SockaddrNl, dest_len: u32, sent: u64 }
    /// The message follows.
    struct Send { dest: SockaddrNl, dest_len: u32, flags: u32 }
    /// Ancillary data follows, then the message at the next multiple of 8.
    struct Message { len: u32, flags: u32, control_len: u32, data_len: u32, name: SockaddrNl, pad: u32, serial: u64 }
    /// The bytes follow.
    struct Part { serial: u64, offset: u32, data_len: u32 }
    /// The value follows.
    struct Opt { level: i32, name: i32, len: u32 }
    struct Mapped { mapped: u32, how: u32, rx_len: u64, tx_len: u64 }
    struct State { kind: u32, protocol: u32, rings: u32, pad: u32, handle: u64 }
}
// SAFETY: integers without padding (12, 16, 4, 4 bytes).
unsafe impl Words for SockaddrNl {}
// SAFETY: as above.
unsafe impl Words for nl_mmap_req {}
// SAFETY: as above.
unsafe impl Words for u32 {}
// SAFETY: as above.
unsafe impl Words for i32 {}

/// The structure that these bytes are, if there are as many as it has.
pub fn read<T: Words>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: as many bytes as the type has, any of which are a value of it (`Words`).
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The structure at the beginning of these bytes, and what follows it.
pub fn split<T: Words>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((read(head)?, rest))
}

/// The bytes of a structure.
pub fn bytes<T: Words>(value: &T) -> &[u8] {
    // SAFETY: no padding (`Words`), so every byte is initialized.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

const MAGIC: u32 = 0xDA;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn ioc<T>(direction: u32, number: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | MAGIC << 8 | number
}

macro_rules! numbers {
    ($($name:ident = $direction:expr, $number:literal, $kind:ty;)*) => {
        $(pub const $name: u32 = ioc::<$kind>($direction, $number);)*
        /// Names and numbers, as in the header.
        #[cfg(test)]
        const NUMBERS: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

numbers! {
    VERSION = READ, 0x00, Version;
    SOCKET = WRITE, 0x01, Socket;
    BIND = WRITE, 0x02, SockaddrNl;
    CONNECT = WRITE, 0x03, SockaddrNl;
    GETSOCKNAME = READ, 0x04, SockaddrNl;
    ADD_MEMBERSHIP = WRITE, 0x05, u32;
    DROP_MEMBERSHIP = WRITE, 0x06, u32;
    SETSOCKOPT = WRITE, 0x07, SockOpt;
    GETSOCKOPT = READ | WRITE, 0x08, SockOpt;
    RX_RING = WRITE, 0x09, nl_mmap_req;
    TX_RING = WRITE, 0x0a, nl_mmap_req;
    MAP_INFO = READ, 0x0b, MapInfo;
    MEMORY = WRITE, 0x0c, i32;
    KICK = READ | WRITE, 0x0d, Kick;
    GET_ERROR = READ, 0x0e, i32;
    GETPEERNAME = READ, 0x0f, SockaddrNl;
    MAPPED = READ | WRITE, 0x16, Mapped;
    STATE = READ, 0x17, State;
}

/// Bits of the size in a number.
const SIZE: u32 = 0x3fff << 16;

/// A number without its size: what the numbers of one call with arguments of any size have in common.
pub const fn unsized_number(number: u32) -> u32 {
    number & !SIZE
}

/// Size of the argument.
pub const fn argument_size(number: u32) -> usize {
    ((number & SIZE) >> 16) as usize
}

const fn family(direction: u32, number: u32) -> u32 {
    direction << 30 | MAGIC << 8 | number
}

pub const SEND: u32 = family(WRITE, 0x10);
pub const RECV: u32 = family(READ, 0x11);
pub const PEEK: u32 = family(READ, 0x12);
pub const PART: u32 = family(READ | WRITE, 0x13);
pub const SETOPT: u32 = family(WRITE, 0x14);
pub const GETOPT: u32 = family(READ | WRITE, 0x15);

/// Whether an ioctl changes nothing and sends nothing: whoever has the open file may have the answer.
pub const fn only_asks(number: u32) -> bool {
    matches!(number, GETSOCKNAME | GETPEERNAME | GETSOCKOPT | GET_ERROR | STATE)
        || matches!(unsized_number(number), RECV | PEEK | PART | GETOPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::mem::offset_of;
    use std::process::Command;

    /// What the C compiler makes of the header is what is written here.
    #[test]
    fn numbers_and_layouts_are_the_headers() {
        let (mut print, mut expected) = (String::new(), String::new());
        let mut same = |what: &str, value: u64| {
            writeln!(print, "printf(\"{what} %llu\\n\", (unsigned long long)({what}));").unwrap();
            writeln!(expected, "{what} {value}").unwrap();
        };
        for (name, number) in NUMBERS {
            same(&format!("NLMMAP_{name}"), u64::from(*number));
        }
        for (name, value) in [
            ("ABI", ABI),
            ("NODE_FUSE", NODE_FUSE),
            ("NODE_CUSE", NODE_CUSE),
            ("MAP_NODE", MAP_NODE),
            ("MAP_MEMORY", MAP_MEMORY),
        ] {
            same(&format!("NLMMAP_{name}"), u64::from(value));
        }
        for (name, value, head) in [
            ("SEND", SEND, size_of::<Send>()),
            ("RECV", RECV, size_of::<Message>() + CONTROL_ROOM),
            ("PEEK", PEEK, size_of::<Message>() + CONTROL_ROOM),
            ("PART", PART, size_of::<Part>()),
            ("SETOPT", SETOPT, size_of::<Opt>()),
            ("GETOPT", GETOPT, size_of::<Opt>()),
        ] {
            same(&format!("NLMMAP_{name}(24)"), u64::from(value) | (head as u64 + 24) << 16);
        }
        for (name, value) in [
            ("SOCKET_STRICT", u64::from(SOCKET_STRICT)),
            ("SEND_NEXT", u64::from(SEND_NEXT)),
            ("MESSAGE_STAYS", u64::from(MESSAGE_STAYS)),
            ("MESSAGE_ROOM", MESSAGE_ROOM as u64),
            ("CONTROL_ROOM", CONTROL_ROOM as u64),
            ("STATE_RX", u64::from(STATE_RX)),
            ("STATE_TX", u64::from(STATE_TX)),
            ("F_SOCKET_CALLS", F_SOCKET_CALLS),
        ] {
            same(&format!("NLMMAP_{name}"), value);
        }
        same("NLMMAP_F_MAP_NODE", F_MAP_NODE);
        same("NLMMAP_F_MAP_MEMORY", F_MAP_MEMORY);
        macro_rules! layout {
            ($c:literal, $rust:ty, $($field:ident = $cfield:literal),*) => {
                same(concat!("sizeof(struct ", $c, ")"), size_of::<$rust>() as u64);
                $(same(concat!("__builtin_offsetof(struct ", $c, ", ", $cfield, ")"), offset_of!($rust, $field) as u64);)*
            };
        }
        layout!("nlmmap_version", Version, abi = "abi", node = "node", features = "features");
        layout!("nlmmap_socket", Socket, kind = "type", protocol = "protocol");
        layout!("nlmmap_sockopt", SockOpt, level = "level", name = "name", value = "value");
        layout!("nlmmap_map_info", MapInfo, how = "how", rx_len = "rx_len", tx_len = "tx_len");
        layout!("nlmmap_kick", Kick, dest = "dest", dest_len = "dest_len", sent = "sent");
        layout!("nlmmap_send", Send, dest = "dest", dest_len = "dest_len", flags = "flags");
        layout!(
            "nlmmap_message",
            Message,
            len = "len",
            flags = "flags",
            control_len = "control_len",
            data_len = "data_len",
            name = "name",
            serial = "serial"
        );
        layout!("nlmmap_part", Part, serial = "serial", offset = "offset", data_len = "data_len");
        layout!("nlmmap_opt", Opt, level = "level", name = "name", len = "len");
        layout!("nlmmap_mapped", Mapped, mapped = "mapped", how = "how", rx_len = "rx_len", tx_len = "tx_len");
        layout!("nlmmap_state", State, kind = "type", protocol = "protocol", rings = "rings", handle = "handle");
        layout!("nl_mmap_req", nl_mmap_req, nm_block_size = "nm_block_size", nm_frame_nr = "nm_frame_nr");
        layout!("sockaddr_nl", SockaddrNl, portid = "nl_pid", groups = "nl_groups");

        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("probe.c"), directory.path().join("probe"));
        let text = format!(
            "#include <stdio.h>\n#include <sys/socket.h>\n#include <nlmmap.h>\nint main(void)\n{{\n{print}return 0;\n}}\n"
        );
        std::fs::write(&source, text).unwrap();
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
        let compiled = Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", include, "-o"])
            .args([&program, &source])
            .output()
            .expect("a C compiler (apt install gcc libc6-dev linux-libc-dev)");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(&program).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        assert!(read::<Socket>(&[0; 7]).is_none());
        assert!(read::<Socket>(&[0; 9]).is_none());
        let kick = Kick { dest_len: 12, sent: 5, ..Kick::default() };
        assert_eq!(read::<Kick>(bytes(&kick)).unwrap().sent, 5);
    }
}
