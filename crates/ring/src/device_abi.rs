//! The device's ioctls: the Rust side of `include/nlmmap.h`, for the daemon and the preload library.
//!
//! Arguments are plain 32- and 64-bit words in native byte order, without padding that carries meaning.

#![allow(missing_docs, reason = "the header has the words")]

use crate::abi::nl_mmap_req;
use crate::sys::SockaddrNl;

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
/// Beside a kick's length of address: at a receiver without room it answers `EAGAIN`, and the frame is gone.
pub const KICK_DONTWAIT: u32 = 1 << 31;
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
    /// The length has [`KICK_DONTWAIT`] beside it.
    struct Kick { dest: SockaddrNl, dest_len: u32, sent: u64 }
    struct KickAs { kick: Kick, flags: u32, pid: u32, uid: u32, gid: u32 }
    /// The message follows.
    struct Send { dest: SockaddrNl, dest_len: u32, flags: u32 }
    /// Ancillary data follows, then the message at the next multiple of 8.
    struct Message { len: u32, flags: u32, control_len: u32, data_len: u32, name: SockaddrNl, pad: u32, serial: u64 }
    /// The bytes follow.
    struct Part { serial: u64, offset: u32, data_len: u32 }
    /// The value follows.
    struct Opt { level: i32, name: i32, len: u32 }
    struct Mapped { mapped: u32, how: u32, rx_len: u64, tx_len: u64 }
    struct State { kind: u32, protocol: u32, rings: u32, pad: u32, handle: u64, inode: u64 }
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
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
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
        pub const NUMBERS: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
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
    KICK_AS = READ | WRITE, 0x18, KickAs;
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
