//! The ABI of `<linux/netlink.h>` for mapped sockets: constants and structures, in host byte order.
//!
//! Layout (all words 32 bit, native endian; sizes in bytes):
//!
//! ```text
//! nl_mmap_req  (16)   nm_block_size  nm_block_nr  nm_frame_size  nm_frame_nr
//! nl_mmap_hdr  (24)   nm_status@0  nm_len@4  nm_group@8  nm_pid@12  nm_uid@16  nm_gid@20
//! frame               nl_mmap_hdr, then the payload at NL_MMAP_HDRLEN
//! ```

/// `SOL_NETLINK`
pub const SOL_NETLINK: i32 = 270;
/// `NETLINK_RX_RING`
pub const NETLINK_RX_RING: i32 = 6;
/// `NETLINK_TX_RING`
pub const NETLINK_TX_RING: i32 = 7;
/// Offset of the payload in a frame: `NLMSG_ALIGN(sizeof(struct nl_mmap_hdr))`.
pub const NL_MMAP_HDRLEN: u32 = 24;
/// Frame sizes are multiples of this.
pub const NL_MMAP_MSG_ALIGNMENT: u32 = 4;

/// `NL_MMAP_STATUS_*`: who may write the frame. A word of shared memory may hold any other value too.
pub mod status {
    /// Free: the filling side may write it.
    pub const UNUSED: u32 = 0;
    /// Being filled by the kernel role.
    pub const RESERVED: u32 = 1;
    /// Holds a message for the other side.
    pub const VALID: u32 = 2;
    /// Stands for a message that waits in the receive queue; `nm_len` is its length.
    pub const COPY: u32 = 3;
    /// Kept by the client: the kernel role steps over it.
    pub const SKIP: u32 = 4;
}

/// `struct nl_mmap_req`: the argument of `NETLINK_RX_RING` and `NETLINK_TX_RING`. Units: bytes and counts.
#[allow(non_camel_case_types, reason = "uapi name")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct nl_mmap_req {
    /// Bytes in a block; a multiple of the page size.
    pub nm_block_size: u32,
    /// Number of blocks; 0 tears the ring down.
    pub nm_block_nr: u32,
    /// Bytes in a frame, header included.
    pub nm_frame_size: u32,
    /// Number of frames in all blocks.
    pub nm_frame_nr: u32,
}

/// The five words behind `nm_status` in a frame header, by value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameHdr {
    /// Bytes of payload (`VALID`), or of the message in the receive queue (`COPY`).
    pub len: u32,
    /// Multicast group number, 0 for unicast.
    pub group: u32,
    /// Process id of the sender, 0 for the kernel. Not the port id.
    pub pid: u32,
    /// User id of the sender.
    pub uid: u32,
    /// Group id of the sender.
    pub gid: u32,
}

/// `struct nlmsghdr`, 16 bytes.
pub const NLMSG_HDRLEN: usize = 16;
/// `NLMSG_NOOP`
pub const NLMSG_NOOP: u16 = 1;
/// `NLMSG_ERROR`: an error, or an acknowledgement when its error is 0.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLM_F_MULTI`: part of a dump.
pub const NLM_F_MULTI: u16 = 2;
/// `NLM_F_ACK`
pub const NLM_F_ACK: u16 = 4;
/// `NLM_F_ECHO`
pub const NLM_F_ECHO: u16 = 8;
/// `NLM_F_DUMP`
pub const NLM_F_DUMP: u16 = 0x300;
/// `NETLINK_ROUTE`
pub const NETLINK_ROUTE: u32 = 0;
/// An address, in a dump of them.
pub const RTM_NEWADDR: u16 = 20;
/// A route, in a dump of them.
pub const RTM_NEWROUTE: u16 = 24;
/// `NETLINK_NETFILTER`
pub const NETLINK_NETFILTER: u32 = 12;
/// `NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET`
pub const NFQNL_PACKET: u16 = 3 << 8;
/// `NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT`
pub const NFQNL_VERDICT: u16 = 3 << 8 | 1;
/// `NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT_BATCH`
pub const NFQNL_VERDICT_BATCH: u16 = 3 << 8 | 3;
/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET`
pub const NFULNL_PACKET: u16 = 4 << 8;

/// `NLMSG_ALIGN`, saturating so that a hostile length cannot wrap.
#[inline]
pub const fn nlmsg_align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

const _: () = {
    use linux_raw_sys::netlink as uapi;
    assert!(size_of::<nl_mmap_req>() == 16 && size_of::<uapi::nl_mmap_req>() == 16);
    assert!(size_of::<uapi::nl_mmap_hdr>() == NL_MMAP_HDRLEN as usize);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_status) == 0);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_len) == 4);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_group) == 8);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_pid) == 12);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_uid) == 16);
    assert!(core::mem::offset_of!(uapi::nl_mmap_hdr, nm_gid) == 20);
    assert!(uapi::NETLINK_RX_RING as i32 == NETLINK_RX_RING && uapi::NETLINK_TX_RING as i32 == NETLINK_TX_RING);
    assert!(core::mem::offset_of!(nl_mmap_req, nm_frame_nr) == 12);
};
