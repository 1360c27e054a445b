//! `setsockopt`, `getsockopt`, and the rings.

use super::chain::beyond;
use super::device_or_next;
use super::request::{self, Buffer};
use super::table::Dev;
use crate::found;
use crate::log::info;
use crate::rights::may_set_rings;
use crate::symbols::Ptr;
use core::ffi::{c_int, c_uint};
use core::sync::atomic::Ordering;
use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK, nl_mmap_req};
use nlmmap_ring::device_abi::{self as abi, Opt};
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys::{self, SOL_SOCKET};

const SO_ATTACH_FILTER: c_int = 26;
/// `struct sock_fprog`: a count, and behind padding an address.
const SOCK_FPROG: usize = 16;
/// Bytes of an instruction of a filter.
const INSTRUCTION: usize = 8;
const HEAD: usize = size_of::<Opt>();
const ROOM: usize = request::LARGEST - HEAD;

fn ring(fd: c_int, dev: &Dev, name: c_int, value: Ptr, len: c_uint) -> Result<usize> {
    if found::STRICT.load(Ordering::Relaxed) && !may_set_rings() {
        info!("fd {fd}: setting a ring needs CAP_NET_ADMIN in strict mode");
        return Err(Errno::PERM);
    }
    // An int in the kernel, which it compares as an unsigned number.
    if (len as usize) < size_of::<nl_mmap_req>() {
        return Err(Errno::INVAL);
    }
    let mut bytes = [0; size_of::<nl_mmap_req>()];
    request::copy_in(value.cast(), &mut bytes)?;
    let mut wanted: nl_mmap_req = abi::read(&bytes).unwrap_or_default();
    let number = if name == NETLINK_RX_RING { abi::RX_RING } else { abi::TX_RING };
    request::with(fd, number, &mut wanted).inspect_err(|e| {
        info!(
            "fd {fd}: ring of {} blocks of {} bytes, {} frames of {} bytes refused with errno {}",
            wanted.nm_block_nr, wanted.nm_block_size, wanted.nm_frame_nr, wanted.nm_frame_size, e.0
        );
    })?;
    dev.drop_memory();
    if name == NETLINK_TX_RING {
        dev.tx.store(wanted.nm_block_nr != 0, Ordering::Relaxed);
    }
    Ok(0)
}

fn set(fd: c_int, dev: &Dev, level: c_int, name: c_int, value: Ptr, len: c_uint) -> Result<usize> {
    if level == SOL_NETLINK && (name == NETLINK_RX_RING || name == NETLINK_TX_RING) {
        return ring(fd, dev, name, value, len);
    }
    if (len as c_int) < 0 {
        return Err(Errno::INVAL);
    }
    let (mut from, mut len) = (value.cast::<u8>().cast_const(), len as usize);
    if level == SOL_SOCKET && name == SO_ATTACH_FILTER {
        // The value has the address of the instructions; what travels is the instructions.
        if len != SOCK_FPROG {
            return Err(Errno::INVAL);
        }
        let mut program = [0u64; SOCK_FPROG / 8];
        let mut bytes = [0u8; SOCK_FPROG];
        request::copy_in(from, &mut bytes)?;
        for (to, word) in program.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *to = u64::from_ne_bytes(*word);
        }
        from = program[1] as usize as *const u8;
        len = (program[0] & 0xffff) as usize * INSTRUCTION;
        if len > ROOM {
            info!("fd {fd}: a socket filter of {} instructions is too long for the device", len / INSTRUCTION);
            return Err(Errno::NOMEM);
        }
    } else {
        // More than any option of these sockets reads.
        len = len.min(ROOM);
    }
    let mut buffer = Buffer::take()?;
    buffer.put(&Opt { level, name, len: len as u32 });
    request::copy_in(from, buffer.bytes().get_mut(HEAD..HEAD + len).unwrap_or(&mut []))?;
    buffer.request(fd, abi::SETOPT, HEAD + len)
}

pub unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: c_uint) -> c_int {
    device_or_next!(
        fd,
        |dev: &Dev| set(fd, dev, level, name, value, len),
        // SAFETY: handed on as it came.
        unsafe { beyond::setsockopt(fd, level, name, value, len) }
    )
}

fn get(fd: c_int, level: c_int, name: c_int, value: Ptr, len: *mut c_uint) -> Result<usize> {
    let mut room = [0u8; 4];
    request::copy_in(len.cast(), &mut room)?;
    let room = i32::from_ne_bytes(room);
    if room < 0 {
        return Err(Errno::INVAL);
    }
    let room = (room as usize).min(ROOM);
    let mut buffer = Buffer::take()?;
    buffer.put(&Opt { level, name, len: room as u32 });
    buffer.request(fd, abi::GETOPT, HEAD + room)?;
    let answer: Opt = buffer.get();
    let bytes = buffer.bytes().get(HEAD..HEAD + (answer.len as usize).min(room)).unwrap_or(&[]);
    // SAFETY: the client's duty for its buffers.
    unsafe {
        sys::copy_out(bytes, value.cast())?;
        len.write_unaligned(answer.len);
    }
    Ok(0)
}

pub unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: *mut c_uint) -> c_int {
    device_or_next!(
        fd,
        |_: &Dev| get(fd, level, name, value, len),
        // SAFETY: handed on as it came.
        unsafe { beyond::getsockopt(fd, level, name, value, len) }
    )
}

/// How long a receive (`SO_RCVTIMEO`) or a send (`SO_SNDTIMEO`) may wait, in nanoseconds; `None` for ever.
pub(super) fn time_limit(fd: c_int, name: c_int) -> Option<u64> {
    let mut buffer = Buffer::take().ok()?;
    buffer.put(&Opt { level: SOL_SOCKET, name, len: 16 });
    buffer.request(fd, abi::GETOPT, HEAD + 16).ok()?;
    let time = buffer.bytes().get(HEAD..HEAD + 16)?.as_chunks::<8>().0;
    let [seconds, micros] = [time.first()?, time.get(1)?].map(|word| u64::from_ne_bytes(*word));
    let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000));
    (nanos != 0).then_some(nanos)
}
