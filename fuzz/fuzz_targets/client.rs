//! The client of the target `hooks`: its moves, and what it expects of each.

use std::ffi::c_void;
use std::ptr::null_mut;

use nlmmap_ring::abi::{NETLINK_RX_RING, NETLINK_TX_RING, SOL_NETLINK, nl_mmap_req, status};
use nlmmap_ring::sys::{self, IoVec, MMsgHdr, MSG_DONTWAIT, MsgHdr, SockaddrNl};
use syscalls::Sysno;

use nlmmap_preload::symbols::{EpollEvent, PollFd, TimeSpec, TimeVal};
use nlmmap_preload::{entry, found, table};

/// Numbers that nothing else in this process has: sockets and what replaces them, two epoll instances behind them.
const FIRST: i32 = 600;
const SOCKETS: i32 = 8;
const LAST: i32 = FIRST + SOCKETS + 1;
/// Moves of one input.
const MOST: usize = 120;
/// A call that succeeds leaves `errno` as it was.
const ERRNO: i32 = 4242;
/// What nobody writes to.
const BLANK: u8 = 0xa5;
const ROOM: usize = 9000;
/// The client's word for a number that an epoll instance watches.
const WORD: u64 = 0x5eed_0000_0000;

/// Eight bytes of the input.
#[derive(Clone, Copy)]
struct Move {
    kind: u8,
    number: u8,
    a: u8,
    b: u8,
    word: u32,
}

impl Move {
    fn fd(self) -> i32 {
        socket(self.number)
    }
    fn other(self) -> i32 {
        socket(self.a)
    }
    fn epoll(self) -> i32 {
        FIRST + SOCKETS + i32::from(self.b & 1)
    }
}

/// One of the client's numbers; rarely one that is closed, none, or one that is the library's own.
fn socket(choice: u8) -> i32 {
    match choice {
        0xff => -1,
        0xfe => FIRST - 1,
        0xf8..=0xfd => table::next_used(0, FIRST as u32 - 1).or(table::next_used(LAST as u32 + 1, 2000)).map_or(-1, |fd| fd as i32),
        0xf0..=0xf7 => FIRST + SOCKETS + i32::from(choice & 1),
        _ => FIRST + i32::from(choice) % SOCKETS,
    }
}

/// Room with a margin that nobody may write to.
struct Room(Vec<u8>);

impl Room {
    fn new() -> Room {
        Room(vec![BLANK; ROOM + 256])
    }
    fn at(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
    /// What lies behind the first `used` bytes is as it was.
    fn check(&self, used: usize) {
        // Compared with itself, a byte further on: one call, where each step of a loop would be counted.
        let behind = self.0.get(used..).unwrap_or_default();
        let is_blank = behind.split_first().is_none_or(|(first, rest)| *first == BLANK && behind.get(..rest.len()) == Some(rest));
        assert!(is_blank, "written behind {used} bytes");
    }
}

/// Makes a call, and looks at how it sets `errno`.
fn call<T: Copy + PartialEq + Into<i64>>(call: impl FnOnce() -> T) -> Option<usize> {
    // SAFETY: this thread's own word.
    unsafe { *libc::__errno_location() = ERRNO };
    let result: i64 = call().into();
    // SAFETY: as above.
    let errno = unsafe { *libc::__errno_location() };
    if result == -1 {
        assert!((1..=133).contains(&errno), "errno {errno}");
        return None;
    }
    assert!(result >= 0, "{result}");
    assert_eq!(errno, ERRNO, "errno after a call that has succeeded");
    usize::try_from(result).ok()
}

/// As [`call`], for those that return a length.
fn size(f: impl FnOnce() -> isize) -> Option<usize> {
    call(|| f() as i64)
}

/// By the kernel, behind the library's back.
fn behind(nr: Sysno, args: [usize; 3]) -> Option<usize> {
    let [a, b, c] = args;
    // SAFETY: numbers only.
    unsafe { sys::call(nr, [a, b, c, 0, 0, 0]) }.ok()
}

#[derive(Default)]
struct Client {
    /// Pages of rings that are mapped.
    pages: Vec<usize>,
}

/// One input: a byte of settings, then moves of eight bytes.
pub fn run(bytes: &[u8]) {
    let Some((settings, moves)) = bytes.split_first() else { return };
    found::STRICT.store(settings & 1 != 0, std::sync::atomic::Ordering::Relaxed);
    let mut client = Client::default();
    for number in [FIRST + SOCKETS, FIRST + SOCKETS + 1] {
        client.put(number, behind(Sysno::epoll_create1, [0; 3]));
    }
    for m in moves.chunks_exact(8).take(MOST) {
        let &[kind, number, a, b, w, x, y, z] = m else { return };
        client.apply(Move { kind, number, a, b, word: u32::from_le_bytes([w, x, y, z]) });
    }
    client.end();
}

impl Client {
    fn put(&mut self, number: i32, made: Option<usize>) {
        let Some(made) = made else { return };
        // SAFETY: takes numbers.
        call(|| unsafe { entry::dup2(made as i32, number) });
        behind(Sysno::close, [made, 0, 0]);
    }

    fn apply(&mut self, m: Move) {
        // What a number of the library's own is, nobody can know: it is closed by chance, or waited for, and nothing else.
        if table::is_noted(m.fd()) && !matches!(m.kind % 26, 10 | 11 | 20) {
            return;
        }
        match m.kind % 26 {
            // Where the end will look.
            0 if !(FIRST..FIRST + SOCKETS).contains(&m.fd()) => {}
            0 => {
                let family = [2, 2, 2, 0, 16, 12, 4, 15][usize::from(m.a % 8)];
                // AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC
                self.put(m.fd(), behind(Sysno::socket, [16, 0o2_004_003, family]));
            }
            1 | 2 => self.set_ring(m),
            3 => self.set_option(m),
            4 => self.get_option(m),
            5 => self.map(m),
            6 => self.unmap(m),
            7 => self.scribble(m),
            8 => self.release(),
            9 => self.fill(m),
            10 => self.poll(m),
            11 => self.select(m),
            12 => self.epoll_ctl(m),
            13 => self.epoll_wait(m),
            14 | 15 => self.receive(m),
            16 | 17 => self.send(m),
            18 => self.arrive(m),
            19 => self.duplicate(m),
            20 => self.close(m),
            21 => self.name(m),
            22 => {
                // What catches no signal need not block any.
                // SAFETY: SIG_DFL or SIG_IGN of a signal that nobody sends.
                unsafe { entry::signal(10, usize::from(m.a & 1)) };
            }
            23 => sys::nap(u64::from(m.a) * 1000),
            24 => self.pass_by(m),
            _ => self.move_pages(m),
        }
    }

    fn set_ring(&mut self, m: Move) {
        let name = if m.a & 1 == 0 { NETLINK_RX_RING } else { NETLINK_TX_RING };
        let mut request = match m.a >> 1 & 7 {
            0 => nl_mmap_req::default(),
            // Any words: most are refused.
            1 => nl_mmap_req { nm_block_size: m.word, nm_block_nr: m.b.into(), nm_frame_size: m.word >> 16, nm_frame_nr: m.word & 0xffff },
            shape => {
                let (blocks, frame) = (1 + u32::from(m.b % 4), 512 << (shape % 4));
                nl_mmap_req {
                    nm_block_size: 4096,
                    nm_block_nr: blocks,
                    nm_frame_size: frame,
                    nm_frame_nr: blocks * (4096 / frame) + u32::from(m.b == 0xff),
                }
            }
        };
        if u64::from(request.nm_block_size) * u64::from(request.nm_block_nr) > 1 << 20 {
            request.nm_block_nr = 0;
        }
        let len = if m.word >> 28 == 15 { m.word & 31 } else { 16 };
        // SAFETY: a request of 16 bytes; a longer length is refused or its first 16 are read.
        call(|| unsafe { entry::setsockopt(m.fd(), SOL_NETLINK, name, (&raw mut request).cast(), len.min(16)) });
    }

    fn option(m: Move) -> (i32, i32) {
        match m.a {
            // What the library follows: memberships, packet information, no ENOBUFS; credentials, buffers, errors.
            0..=127 => *[(270, 1), (270, 2), (270, 3), (270, 5), (1, 16), (1, 8), (1, 7), (1, 4)].get(usize::from(m.a % 8)).unwrap_or(&(1, 4)),
            // But for those that make calls block or take addresses.
            a => (if a & 1 == 0 { 270 } else { 1 }, i32::from(a % 64 / 2)),
        }
    }

    fn set_option(&mut self, m: Move) {
        let (level, name) = Client::option(m);
        // Addresses (SO_ATTACH_FILTER) and what makes the kernel wait on close (SO_LINGER) are no matter of the library's.
        if level == 1 && matches!(name, 13 | 26 | 27) {
            return;
        }
        let mut value = [m.word & 0xffff, 0, 0, 0];
        // SAFETY: 16 bytes.
        call(|| unsafe { entry::setsockopt(m.fd(), level, name, value.as_mut_ptr().cast(), u32::from(m.b % 17)) });
    }

    fn get_option(&mut self, m: Move) {
        let ((level, name), mut room) = (Client::option(m), Room::new());
        let mut len = u32::from(m.b);
        // SAFETY: so many bytes are there.
        let done = call(|| unsafe { entry::getsockopt(m.fd(), level, name, room.at(), &raw mut len) });
        // A list's length may be that of what there is.
        room.check(if done.is_some() { (len as usize).min(m.b.into()) } else { m.b.into() });
    }

    fn map(&mut self, m: Move) {
        let len = match m.a % 4 {
            0 => usize::from(m.b % 9) * 4096,
            1 => usize::from(m.b % 5) * 8192,
            2 => usize::from(m.b) * 64,
            _ => m.word as usize,
        };
        let flags = if m.a & 0x80 == 0 { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let off = if m.a & 0x40 == 0 { 0 } else { 4096 };
        let prot = if m.a & 0x20 == 0 { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: this thread's own word; at an address of the kernel's choice.
        let at = unsafe {
            *libc::__errno_location() = ERRNO;
            entry::mmap(null_mut(), len, prot, flags, m.fd(), off)
        };
        if at as usize == usize::MAX {
            return;
        }
        assert!(at as usize % 4096 == 0 && len > 0);
        if m.a & 0x20 != 0 {
            // SAFETY: mapped just now.
            call(|| unsafe { entry::munmap(at, len) });
        } else {
            self.pages.extend((at as usize..at as usize + len.next_multiple_of(4096)).step_by(4096));
        }
    }

    /// A page, or some that lie behind each other.
    fn unmap(&mut self, m: Move) {
        let Some(&at) = self.pages.get(usize::from(m.a) % self.pages.len().max(1)) else { return };
        let len = (1 + usize::from(m.b % 8)) * 4096;
        let end = (at..at + len).step_by(4096).find(|page| !self.pages.contains(page)).unwrap_or(at + len);
        // SAFETY: pages of rings.
        call(|| unsafe { entry::munmap(at as *mut c_void, end - at) });
        self.pages.retain(|page| !(at..end).contains(page));
    }

    fn move_pages(&mut self, m: Move) {
        let Some(&at) = self.pages.get(usize::from(m.a) % self.pages.len().max(1)) else { return };
        // SAFETY: a page of a ring, to where the kernel likes.
        let to = unsafe { entry::mremap(at as *mut c_void, 4096, 4096 << (m.b & 1), libc::MREMAP_MAYMOVE, null_mut()) };
        if to as usize == usize::MAX {
            return;
        }
        self.pages.retain(|page| *page != at);
        // What it has grown by may lie behind the ring's end: nobody goes there.
        self.pages.push(to as usize);
        if m.b & 1 != 0 {
            // SAFETY: just made.
            call(|| unsafe { entry::munmap((to as usize + 4096) as *mut c_void, 4096) });
        }
        // SAFETY: as above.
        call(|| unsafe { entry::msync(to, 4096, i32::from(m.word as u8)) });
    }

    /// A word of a page; another thread may be at it.
    fn write(&self, at: usize, value: u32) {
        // SAFETY: pages of rings that are mapped, aligned.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(at as *mut u32) }.store(value, std::sync::atomic::Ordering::Release);
    }

    fn scribble(&mut self, m: Move) {
        let Some(at) = self.pages.get(usize::from(m.a) % self.pages.len().max(1)) else { return };
        let index = usize::from(m.b);
        // A header's word, or any.
        let word = if m.number & 1 == 0 { index % 8 * 128 + index / 8 % 6 } else { index * 4 };
        self.write(at + word * 4, if m.number & 2 == 0 { m.word & 7 } else { m.word });
    }

    /// Whatever the frames' size is, they are all the client's no more.
    fn release(&mut self) {
        self.pages.iter().flat_map(|page| (0..4096).step_by(512).map(move |at| page + at)).for_each(|at| self.write(at, status::UNUSED));
    }

    /// A message that is ready to be sent.
    fn fill(&mut self, m: Move) {
        let Some(page) = self.pages.get(usize::from(m.a) % self.pages.len().max(1)) else { return };
        let at = page + usize::from(m.b % 8) * 512;
        let len = 16 + m.word % 200;
        // struct nlmsghdr: length, type with flags, sequence, port.
        for (i, word) in [len, 18 | 5 << 16, m.word >> 8, 0].into_iter().enumerate() {
            self.write(at + 32 + 4 * i, word);
        }
        self.write(at + 4, if m.word >> 28 == 0 { m.word } else { len });
        self.write(at, status::VALID);
    }

    fn poll(&mut self, m: Move) {
        let asked = [m.number, m.a, m.b].map(socket);
        let wishes = [m.word as i16, (m.word >> 8) as i16, (m.word >> 16) as i16];
        let mut fds: Vec<PollFd> =
            asked.iter().zip(wishes).map(|(fd, events)| PollFd { fd: *fd, events, revents: 0 }).collect();
        let zero = TimeSpec { tv_sec: 0, tv_nsec: 0 };
        let (at, bytes) = (fds.as_mut_ptr(), size_of::<PollFd>() * 3);
        let mask = [0u64; 16];
        // SAFETY: three entries; a time; a signal set of the C library's size.
        let done = call(|| unsafe {
            match m.word >> 28 & 3 {
                0 => entry::poll(at, 3, 0),
                1 => entry::__poll_chk(at, 3, 0, bytes),
                2 => entry::ppoll(at, 3, &raw const zero, if m.word >> 31 == 0 { mask.as_ptr().cast() } else { std::ptr::null() }),
                _ => entry::__ppoll_chk(at, 3, &raw const zero, std::ptr::null(), bytes),
            }
        });
        let told = fds.iter().filter(|entry| entry.revents != 0).count();
        if let Some(done) = done {
            assert_eq!(done, told, "entries that were told of");
        }
        for (entry, (fd, events)) in fds.iter().zip(asked.iter().zip(wishes)) {
            // POLLERR, POLLHUP, POLLNVAL
            assert_eq!(entry.revents & !(events | 0x38), 0, "{:#x} of {events:#x}", entry.revents);
            assert_eq!((entry.fd, entry.events), (*fd, events));
        }
    }

    fn select(&mut self, m: Move) {
        let mut asked = [[0u64; 16]; 3];
        for (i, choice) in [m.number, m.a, m.b].into_iter().enumerate() {
            let fd = socket(choice);
            if (0..1024).contains(&fd) {
                for set in asked.iter_mut().enumerate().filter(|(set, _)| m.word >> (i * 3 + set) & 1 != 0).map(|(_, set)| set) {
                    set[fd as usize / 64] |= 1 << (fd % 64);
                }
            }
        }
        let mut sets = asked;
        let [r, w, x] = &mut sets;
        let (mut none, zero) = (TimeVal { tv_sec: 0, tv_usec: 0 }, TimeSpec { tv_sec: 0, tv_nsec: 0 });
        let nr = if m.word >> 30 == 0 { LAST + 1 } else { 1024 };
        let mask = [0u64; 16];
        // SAFETY: three sets of 1024 bits; a time; a signal set of the C library's size.
        let done = call(|| unsafe {
            let (r, w, x) = (r.as_mut_ptr(), w.as_mut_ptr(), x.as_mut_ptr());
            if m.word >> 29 & 1 == 0 {
                entry::select(nr, r, w, x, &raw mut none)
            } else {
                entry::pselect(nr, r, w, x, &raw const zero, mask.as_ptr().cast())
            }
        });
        let Some(done) = done else { return assert_eq!(sets, asked, "a call that has failed") };
        // Words behind the last number stay as they are.
        let words = (nr as usize).div_ceil(64);
        let ones = |set: &[u64; 16]| set.iter().take(words).map(|word| word.count_ones() as usize).sum::<usize>();
        assert_eq!(done, sets.iter().map(ones).sum::<usize>(), "numbers that were told of");
        for (set, before) in sets.iter().zip(&asked) {
            assert!(set.iter().zip(before).all(|(now, before)| now & !before == 0), "numbers that nobody has asked for");
            assert_eq!(set.get(words..), before.get(words..), "written behind {nr} numbers");
        }
    }

    fn epoll_ctl(&mut self, m: Move) {
        let fd = m.fd();
        // But for EPOLLWAKEUP and what nobody knows.
        let events = m.word & (0x203f | 1 << 31 | 1 << 30 | 1 << 28);
        let mut event = EpollEvent { events, data: WORD | fd as u32 as u64 };
        // SAFETY: an event.
        call(|| unsafe { entry::epoll_ctl(m.epoll(), 1 + i32::from(m.a % 3), fd, &raw mut event) });
    }

    fn epoll_wait(&mut self, m: Move) {
        let blank = EpollEvent { events: u32::MAX, data: u64::MAX };
        let mut events = [blank; 6];
        let (at, most) = (events.as_mut_ptr(), 1 + i32::from(m.a % 4));
        let (zero, mask) = (TimeSpec { tv_sec: 0, tv_nsec: 0 }, [0u64; 16]);
        // SAFETY: so many events at least; a time; a signal set of the C library's size.
        let done = call(|| unsafe {
            match m.word % 3 {
                0 => entry::epoll_wait(m.epoll(), at, most, 0),
                1 => entry::epoll_pwait(m.epoll(), at, most, 0, mask.as_ptr().cast()),
                _ => entry::epoll_pwait2(m.epoll(), at, most, &raw const zero, std::ptr::null()),
            }
        });
        let done = done.unwrap_or(0);
        assert!(done <= most as usize);
        for (i, event) in events.iter().enumerate() {
            let (events, data) = (event.events, event.data);
            if i < done {
                assert!(data & !0xffff_ffff == WORD && events != 0, "{data:#x} {events:#x} is not the client's");
            } else {
                assert!(i < most as usize || data == u64::MAX, "written behind {most} events");
            }
        }
    }

    fn receive(&mut self, m: Move) {
        let (fd, len) = (m.fd(), usize::from(m.a) * 33 % (ROOM - 1000));
        // MSG_PEEK, MSG_TRUNC, MSG_OOB, MSG_ERRQUEUE, MSG_CMSG_CLOEXEC, MSG_WAITFORONE
        let flags = (m.word & (0x2 | 0x20 | 0x1 | 0x2000 | 0x4000_0000 | 0x10000) | MSG_DONTWAIT) as i32;
        let (mut room, mut control, mut address) = (Room::new(), Room::new(), Room::new());
        let (mut name, given) = (u32::from(m.b >> 3), usize::from(m.b >> 3));
        let at = room.at();
        match m.b % 8 {
            // SAFETY: so much room is there, for bytes and for the address.
            0 => self.got(&room, len, size(|| unsafe { entry::recv(fd, at, len, flags) }), flags),
            // SAFETY: as above.
            1 => self.got(&room, len, size(|| unsafe { entry::__recv_chk(fd, at, len, ROOM, flags) }), flags),
            2 | 3 => {
                let to = address.at();
                let got = size(|| {
                    // SAFETY: as above.
                    unsafe {
                        if m.b % 8 == 2 {
                            entry::recvfrom(fd, at, len, flags, to, &raw mut name)
                        } else {
                            entry::__recvfrom_chk(fd, at, len, ROOM, flags, to, &raw mut name)
                        }
                    }
                });
                self.got(&room, len, got, flags);
                address.check(if got.is_some() { given.min(name as usize) } else { 0 });
            }
            // SAFETY: as above. Sockets do not block.
            4 => self.got(&room, len, size(|| unsafe { entry::read(fd, at, len) }), 0),
            5 => {
                let iov = [IoVec { base: at.cast(), len: len / 3 }, IoVec { base: at.cast::<u8>().wrapping_add(len / 3), len: len - len / 3 }];
                // SAFETY: two pieces of the room.
                self.got(&room, len, size(|| unsafe { entry::readv(fd, iov.as_ptr(), 2) }), 0);
            }
            kind => {
                let mut iov = IoVec { base: at.cast(), len };
                let controllen = usize::from(m.word as u8);
                let mut header = MsgHdr {
                    name: address.at().cast(),
                    namelen: name,
                    iov: &raw mut iov,
                    iovlen: 1,
                    control: control.at().cast(),
                    controllen,
                    ..MsgHdr::EMPTY
                };
                if kind == 6 {
                    // SAFETY: a header that leads to rooms with their lengths.
                    let got = size(|| unsafe { entry::recvmsg(fd, &raw mut header, flags) });
                    self.got(&room, len, got, flags);
                } else {
                    let mut several = [MMsgHdr { hdr: header, len: 0 }];
                    let mut limit = TimeSpec { tv_sec: 0, tv_nsec: 1 };
                    let wait = if m.word >> 31 == 0 { null_mut() } else { &raw mut limit };
                    // SAFETY: as above, one of them.
                    let got = call(|| unsafe { entry::recvmmsg(fd, several.as_mut_ptr(), 1, flags, wait) });
                    assert!(got.unwrap_or(0) <= 1);
                    header = several[0].hdr;
                    self.got(&room, len, got.filter(|n| *n == 1).map(|_| several[0].len as usize), flags);
                }
                assert!(header.controllen <= controllen);
                control.check(controllen);
                address.check(given);
            }
        }
    }

    /// So many bytes have come into so much room.
    fn got(&self, room: &Room, len: usize, got: Option<usize>, flags: i32) {
        let got = got.unwrap_or(0);
        // MSG_TRUNC: the message's whole length.
        assert!(got <= len || flags & 0x20 != 0, "{got} bytes into {len}");
        room.check(got.min(len));
    }

    fn send(&mut self, m: Move) {
        let fd = m.fd();
        let mut bytes = vec![0u8; usize::from(m.a) * 4];
        for (to, from) in bytes.chunks_exact_mut(4).zip([bytes_len(m.a), 18 | 0x305 << 16, m.word, 0]) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        let mut to = SockaddrNl { family: 16, portid: port(m.other()), groups: m.word >> 24 & 1, ..SockaddrNl::default() };
        let flags = (m.word & 0x4000 | MSG_DONTWAIT) as i32;
        // Nothing at all is a kick.
        let (at, len) = if m.b & 8 == 0 { (null_mut(), 0) } else { (bytes.as_mut_ptr().cast::<c_void>(), bytes.len()) };
        let (name, namelen) = if m.b & 16 == 0 { (null_mut(), 0) } else { ((&raw mut to).cast::<c_void>(), 12 - u32::from(m.b >> 7)) };
        let mut iov = IoVec { base: at.cast(), len };
        let header = MsgHdr { name: name.cast(), namelen, iov: &raw mut iov, iovlen: usize::from(m.b & 32 == 0), ..MsgHdr::EMPTY };
        let sent = match m.b % 8 {
            // SAFETY: so many bytes; an address of 12; a header that leads to both. Sockets do not block.
            0 => size(|| unsafe { entry::send(fd, at, len, flags) }),
            // SAFETY: as above.
            1 => size(|| unsafe { entry::sendto(fd, at, len, flags, name, namelen) }),
            // SAFETY: as above.
            2 => size(|| unsafe { entry::write(fd, at, len) }),
            // SAFETY: as above.
            3 => size(|| unsafe { entry::writev(fd, &raw const iov, 1) }),
            4 => {
                let mut several = [MMsgHdr { hdr: header, len: 0 }, MMsgHdr { hdr: header, len: 0 }];
                // SAFETY: two headers as above.
                let sent = call(|| unsafe { entry::sendmmsg(fd, several.as_mut_ptr(), 2, flags) });
                assert!(sent.unwrap_or(0) <= 2);
                None
            }
            // SAFETY: as above.
            _ => size(|| unsafe { entry::sendmsg(fd, &raw const header, flags) }),
        };
        // A kick's is the length of what was sent from frames.
        assert!(sent.unwrap_or(0) <= len.max(1 << 20));
    }

    /// A message of another process's, as far as the library knows.
    fn arrive(&mut self, m: Move) {
        let portid = port(m.fd());
        if portid == 0 {
            return;
        }
        // AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK
        let Some(from) = behind(Sysno::socket, [16, 0o2_000_003, 2]) else { return };
        let bytes = vec![1u8; usize::from(m.a) * (1 + usize::from(m.b % 16))];
        let to = SockaddrNl { family: 16, portid, ..SockaddrNl::default() };
        for _ in 0..=m.b >> 5 {
            let args = [from, bytes.as_ptr() as usize, bytes.len(), MSG_DONTWAIT as usize, &raw const to as usize, 12];
            // SAFETY: bytes and an address, with their lengths.
            let _ = unsafe { sys::call(Sysno::sendto, args) };
        }
        behind(Sysno::close, [from, 0, 0]);
    }

    fn duplicate(&mut self, m: Move) {
        let (fd, to) = (m.fd(), m.other());
        if !(FIRST..FIRST + SOCKETS).contains(&to) || (FIRST + SOCKETS..=LAST).contains(&fd) {
            return;
        }
        // SAFETY: they take numbers.
        let new = call(|| unsafe {
            match m.b % 5 {
                0 => entry::dup2(fd, to),
                1 => entry::dup3(fd, to, 0o2_000_000),
                2 => entry::fcntl(fd, 0, to as u64),
                3 => entry::fcntl64(fd, 1030, to as u64),
                _ => entry::dup(fd),
            }
        });
        if let Some(new) = new.map(|n| n as i32).filter(|new| !(FIRST..=LAST).contains(new)) {
            // SAFETY: takes a number.
            assert_eq!(call(|| unsafe { entry::close(new) }), Some(0));
        }
    }

    fn close(&mut self, m: Move) {
        let fd = m.fd();
        if (FIRST + SOCKETS..=LAST).contains(&fd) {
            return;
        }
        match m.b % 4 {
            0 | 1 => {
                let is_own = table::is_noted(fd);
                // SAFETY: takes a number.
                let done = call(|| unsafe { entry::close(fd) });
                assert!(!(is_own && done.is_some()), "one of the library's own is closed");
            }
            // SAFETY: takes numbers.
            2 => drop(call(|| unsafe { entry::close_range(fd.max(FIRST) as u32, m.other().min(LAST - 2) as u32, 0) }).filter(|_| false)),
            _ => drop(behind(Sysno::close, [fd as usize, 0, 0])),
        }
    }

    fn name(&mut self, m: Move) {
        let fd = m.fd();
        let mut to = SockaddrNl { family: 16, portid: m.word & 0xff, groups: m.word >> 8 & 3, ..SockaddrNl::default() };
        let (mut room, mut len) = (Room::new(), u32::from(m.b >> 3));
        let at = room.at();
        // SAFETY: an address of 12 bytes, or room for one.
        let done = call(|| unsafe {
            match m.b % 4 {
                0 => entry::bind(fd, (&raw mut to).cast(), 12),
                1 => entry::connect(fd, (&raw mut to).cast(), 12),
                2 => entry::getsockname(fd, at, &raw mut len),
                _ => entry::getpeername(fd, at, &raw mut len),
            }
        });
        room.check(if done.is_some() && m.b & 2 != 0 { usize::from(m.b >> 3) } else { 0 });
    }

    /// What the library only looks at.
    fn pass_by(&mut self, m: Move) {
        let fd = m.fd();
        let mut room = Room::new();
        let at = room.at();
        // SAFETY: a `struct stat`, numbers, or one word.
        call(|| unsafe {
            match m.b % 5 {
                0 => entry::fstat(fd, at),
                1 => entry::fstat64(fd, at),
                2 => entry::fcntl(fd, 3, 0),
                3 => entry::shutdown(fd, 2),
                // SIOCINQ
                _ => entry::ioctl(fd, 0x541b, at as u64),
            }
        });
        room.check(256);
    }

    /// Everything is closed and unmapped: nothing of it is left.
    fn end(mut self) {
        while !self.pages.is_empty() {
            self.unmap(Move { kind: 0, number: 0, a: 0, b: 7, word: 0 });
        }
        // SAFETY: takes numbers.
        assert_eq!(call(|| unsafe { entry::close_range(FIRST as u32, LAST as u32, 0) }), Some(0));
        for round in 0..400 {
            let left = table::all().filter(|local| local.live.load(std::sync::atomic::Ordering::Relaxed)).count();
            let own = own().count();
            if left == 0 && table::live() as usize == own && own <= 1 {
                return;
            }
            // The backing thread may be at it: mostly for a moment.
            sys::nap(if round < 200 { 20_000 } else { 1_000_000 });
        }
        let left = table::all().filter(|local| local.live.load(std::sync::atomic::Ordering::Relaxed));
        for local in left {
            let leads = (0..table::MOST as i32).filter(|fd| table::leads_to(*fd, local)).collect::<Vec<_>>();
            eprintln!("{local:?}\nnumbers that lead there: {leads:?}");
        }
        let own = own().collect::<Vec<_>>();
        panic!("endpoints are left, or numbers: {} in all, of the library's own {own:?}", table::live());
    }
}

/// The library's own numbers.
fn own() -> impl Iterator<Item = i32> {
    let used = |from: u32| table::next_used(from, table::MOST as u32);
    std::iter::successors(used(0), move |fd| used(fd + 1)).map(|fd| fd as i32).filter(|fd| table::is_noted(*fd))
}

/// The length that a message's header states.
fn bytes_len(quarter: u8) -> u32 {
    u32::from(quarter) * 4
}

/// A socket's port id, 0 for none.
fn port(fd: i32) -> u32 {
    let (mut name, mut len) = (SockaddrNl::default(), 12u32);
    let args = [fd as usize, &raw mut name as usize, &raw mut len as usize, 0, 0, 0];
    // SAFETY: an address and its length, locals.
    let done = unsafe { sys::call(Sysno::getsockname, args) };
    if done.is_ok() && name.family == 16 { name.portid } else { 0 }
}
