//! The one table of interposed names.
//!
//! Each row makes four things: the exported hook (`entry`), which hands its arguments to the function of the same name in
//! [`crate::route`]; the hand-on `next::NAME`, which calls the next object in the chain, or the kernel while that is not
//! resolved; the resolver's entry; and a line of [`NAMES`], against which the built library is checked.
//!
//! The last column is the system call that stands in before the constructor has run, or where a C library lacks the name.

use core::ffi::c_void;

/// `struct pollfd`
pub type PollFd = linux_raw_sys::general::pollfd;
/// `struct timespec`
pub type TimeSpec = linux_raw_sys::general::__kernel_timespec;
/// `struct timeval`
pub type TimeVal = linux_raw_sys::general::timeval;
/// `struct iovec`
pub type IoVec = nlmmap_ring::sys::IoVec;

/// `struct epoll_event`, packed on x86-64.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub struct EpollEvent {
    /// Event bits.
    pub events: u32,
    /// The client's word.
    pub data: u64,
}

/// A buffer's address, whatever the client keeps there.
pub type Ptr = *mut c_void;

macro_rules! with_table {
    ($build:ident) => {
        $build! {
            // sockets: those of a device node
            socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = socket;
            bind(fd: c_int, name: Ptr, len: c_uint) -> c_int = bind;
            connect(fd: c_int, name: Ptr, len: c_uint) -> c_int = connect;
            getsockname(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int = getsockname;
            getpeername(fd: c_int, name: Ptr, len: *mut c_uint) -> c_int = getpeername;
            shutdown(fd: c_int, how: c_int) -> c_int = shutdown;
            ioctl(fd: c_int, number: c_ulong, argument: c_ulong) -> c_int = ioctl;
            fstat(fd: c_int, status: Ptr) -> c_int = fstat;
            fstat64(fd: c_int, status: Ptr) -> c_int = fstat;
            __fxstat(version: c_int, fd: c_int, status: Ptr) -> c_int = fstat;
            __fxstat64(version: c_int, fd: c_int, status: Ptr) -> c_int = fstat;
            // rings
            setsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: c_uint) -> c_int = setsockopt;
            getsockopt(fd: c_int, level: c_int, name: c_int, value: Ptr, len: *mut c_uint) -> c_int = getsockopt;
            mmap(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr = mmap;
            mmap64(addr: Ptr, len: usize, prot: c_int, flags: c_int, fd: c_int, off: c_long) -> Ptr = mmap;
            munmap(addr: Ptr, len: usize) -> c_int = munmap;
            mremap(addr: Ptr, old: usize, len: usize, flags: c_int, to: Ptr) -> Ptr = mremap;
            msync(addr: Ptr, len: usize, flags: c_int) -> c_int = msync;
            // descriptors
            close(fd: c_int) -> c_int = close;
            close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = close_range;
            closefrom(first: c_int) -> () = close_range;
            dup(fd: c_int) -> c_int = dup;
            dup2(fd: c_int, to: c_int) -> c_int = dup2;
            dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = dup3;
            fcntl(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int = fcntl;
            fcntl64(fd: c_int, cmd: c_int, arg: c_ulong) -> c_int = fcntl;
            // waiting
            poll(fds: *mut PollFd, nr: c_ulong, millis: c_int) -> c_int = poll;
            __poll_chk(fds: *mut PollFd, nr: c_ulong, millis: c_int, size: usize) -> c_int = poll;
            ppoll(fds: *mut PollFd, nr: c_ulong, limit: *const TimeSpec, mask: *const c_void) -> c_int = ppoll;
            __ppoll_chk(fds: *mut PollFd, nr: c_ulong, limit: *const TimeSpec, mask: *const c_void, size: usize) -> c_int = ppoll;
            select(nr: c_int, r: *mut u64, w: *mut u64, x: *mut u64, limit: *mut TimeVal) -> c_int = select;
            pselect(nr: c_int, r: *mut u64, w: *mut u64, x: *mut u64, limit: *const TimeSpec, mask: *const c_void) -> c_int = pselect6;
            epoll_ctl(ep: c_int, op: c_int, fd: c_int, event: *mut EpollEvent) -> c_int = epoll_ctl;
            epoll_wait(ep: c_int, events: *mut EpollEvent, most: c_int, millis: c_int) -> c_int = epoll_wait;
            epoll_pwait(ep: c_int, events: *mut EpollEvent, most: c_int, millis: c_int, mask: *const c_void) -> c_int = epoll_pwait;
            epoll_pwait2(ep: c_int, events: *mut EpollEvent, most: c_int, limit: *const TimeSpec, mask: *const c_void) -> c_int = epoll_pwait2;
            // signals: whether any is caught
            sigaction(number: c_int, new: *const usize, old: *mut usize) -> c_int = rt_sigaction;
            signal(number: c_int, handler: usize) -> usize = rt_sigaction;
            // receiving
            recv(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize = recvfrom;
            __recv_chk(fd: c_int, buf: Ptr, len: usize, size: usize, flags: c_int) -> isize = recvfrom;
            recvfrom(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> isize = recvfrom;
            __recvfrom_chk(fd: c_int, buf: Ptr, len: usize, size: usize, flags: c_int, name: Ptr, namelen: *mut c_uint) -> isize = recvfrom;
            recvmsg(fd: c_int, msg: *mut MsgHdr, flags: c_int) -> isize = recvmsg;
            recvmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int, limit: *mut TimeSpec) -> c_int = recvmmsg;
            read(fd: c_int, buf: Ptr, len: usize) -> isize = read;
            __read_chk(fd: c_int, buf: Ptr, len: usize, size: usize) -> isize = read;
            readv(fd: c_int, iov: *const IoVec, nr: c_int) -> isize = readv;
            // sending
            send(fd: c_int, buf: Ptr, len: usize, flags: c_int) -> isize = sendto;
            sendto(fd: c_int, buf: Ptr, len: usize, flags: c_int, name: Ptr, namelen: c_uint) -> isize = sendto;
            sendmsg(fd: c_int, msg: *const MsgHdr, flags: c_int) -> isize = sendmsg;
            sendmmsg(fd: c_int, msgs: *mut MMsgHdr, nr: c_uint, flags: c_int) -> c_int = sendmmsg;
            write(fd: c_int, buf: Ptr, len: usize) -> isize = write;
            writev(fd: c_int, iov: *const IoVec, nr: c_int) -> isize = writev;
            // the end
            _exit(status: c_int) -> () = exit_group;
            _Exit(status: c_int) -> () = exit_group;
        }
    };
}
pub(crate) use with_table;

macro_rules! names {
    ($($name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty = $nr:ident;)*) => {
        /// Every interposed name, in the table's order.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}
with_table!(names);
