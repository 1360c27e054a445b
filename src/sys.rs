//! The few system calls that `doctor` and `demo` try out, each behind a safe function.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A netlink socket of family `protocol`.
pub fn netlink(protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the call just made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the kernel itself for a receive ring of one block, as a client would.
pub fn kernel_ring() -> Result<(), Errno> {
    /// `NETLINK_RX_RING` of `linux/netlink.h`.
    const NETLINK_RX_RING: i32 = 6;
    let socket = netlink(libc::NETLINK_ROUTE)?;
    // struct nl_mmap_req: block size, blocks, frame size, frames
    let request: [u32; 4] = [65536, 1, 16384, 4];
    // SAFETY: the pointer and the length are those of `request`. A raw system call, so that a preload cannot answer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            NETLINK_RX_RING,
            request.as_ptr(),
            size_of_val(&request),
        )
    };
    Errno::result(result).map(drop)
}

/// Sends one request with `NLM_F_ACK` to the kernel, and gives the errno of its acknowledgement.
pub fn acknowledged(protocol: i32, kind: u16, body: &[u8]) -> Result<(), Errno> {
    let socket = netlink(protocol)?;
    let fd = socket.as_raw_fd();
    let timeout = libc::timeval { tv_sec: 2, tv_usec: 0 };
    // SAFETY: the pointer and the length are those of `timeout`.
    Errno::result(unsafe {
        let len = size_of_val(&timeout) as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), len)
    })?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend([1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    message.extend(body);
    // SAFETY: the pointer and the length are those of `message`.
    Errno::result(unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) })?;
    let mut answer = [0u8; 8192];
    loop {
        // SAFETY: the pointer and the length are those of `answer`.
        let got = Errno::result(unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) })?;
        // An error message: header of 16 bytes, type 2, then the negative errno.
        if got >= 20 && u16::from_ne_bytes([answer[4], answer[5]]) == libc::NLMSG_ERROR as u16 {
            let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            return if errno == 0 { Ok(()) } else { Err(Errno::from_raw(-errno)) };
        }
    }
}

/// Makes a memory object as the library does: a sealed memfd, mapped, and mapped once more without its fd.
pub fn memory_object() -> Result<(), (&'static str, Errno)> {
    const LEN: usize = 65536;
    let step = |name: &'static str| move |e: Errno| (name, e);
    // SAFETY: the name is terminated.
    let fd = unsafe { libc::memfd_create(c"nlmmap-doctor".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    let fd = Errno::result(fd).map_err(step("memfd_create"))?;
    // SAFETY: the call just made it, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no pointers are passed.
    Errno::result(unsafe { libc::ftruncate(fd.as_raw_fd(), LEN as libc::off_t) }).map_err(step("ftruncate"))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no pointers are passed.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map_err(step("F_ADD_SEALS"))?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let first = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    if first == libc::MAP_FAILED {
        return Err(("mmap", Errno::last()));
    }
    // SAFETY: an old length of 0 duplicates the shared mapping and leaves `first` alone (mremap(2)).
    let second = unsafe { libc::mremap(first, 0, LEN, libc::MREMAP_MAYMOVE) };
    let result = match second == libc::MAP_FAILED {
        true => Err(("mremap", Errno::last())),
        false => {
            // SAFETY: this function made the mapping and keeps no pointer into it.
            unsafe { libc::munmap(second, LEN) };
            Ok(())
        }
    };
    // SAFETY: as above.
    unsafe { libc::munmap(first, LEN) };
    result
}

/// Tries `unshare(flags)` in a child, so that this process stays where it is.
pub fn try_unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: this process has one thread, and the child makes two system calls only.
    let child = Errno::result(unsafe { libc::fork() })?;
    if child == 0 {
        // SAFETY: no pointers are passed; `_exit` runs no code of this process.
        unsafe {
            let code = if libc::unshare(flags) == 0 { 0 } else { Errno::last_raw() };
            libc::_exit(code);
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: the pointer is that of `status`.
        match Errno::result(unsafe { libc::waitpid(child, &mut status, 0) }) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        code => Err(Errno::from_raw(code)),
    }
}

/// Sets the loopback interface of this network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the pointer is that of a whole `ifreq`, which this ioctl only reads.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })?;
    Ok(())
}

/// Sets or clears `bits` of the word at `at` in the file `fd`, atomically beside whoever else has it mapped. The file, of which
/// `len` bytes are mapped for that, is its owner's to cut short, which would end this process.
///
/// # Errors
/// Those of `mmap`.
pub fn change_bits(fd: std::os::fd::RawFd, len: usize, at: usize, bits: u32, on: bool) -> io::Result<()> {
    use std::sync::atomic::{AtomicU32, Ordering};
    if !at.is_multiple_of(4) || at + 4 > len {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let map = memmap2::MmapOptions::new().len(len).map_raw(fd)?;
    // SAFETY: inside the mapping, aligned, and used as an atomic by everybody.
    let word = unsafe { &*map.as_mut_ptr().add(at).cast::<AtomicU32>() };
    if on {
        word.fetch_or(bits, Ordering::AcqRel);
    } else {
        word.fetch_and(!bits, Ordering::AcqRel);
    }
    Ok(())
}

/// The head of a record of at least that many bytes; zeroes if there are fewer.
pub fn record(bytes: &[u8]) -> nlmmap_ring::tap::Record {
    use nlmmap_ring::tap::Record;
    if bytes.len() < size_of::<Record>() {
        return Record::default();
    }
    // SAFETY: as many bytes are there, and any bytes are a Record, which is numbers only.
    unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() }
}
