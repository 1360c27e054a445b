//! Registrations that were made before their socket was adopted, and what else only `/proc` knows of an epoll instance.

use super::DEL;
use super::watches::add;
use crate::fdtable;
use crate::local::Local;
use crate::route::fds;
use crate::symbols::EpollEvent;
use core::ffi::c_int;
use nlmmap_ring::errno::Errno;
use nlmmap_ring::sys;
use syscalls::Sysno;

/// Registrations made before the socket was adopted, by whatever number leads there.
pub(in crate::route) fn find_watches(local: &'static Local) {
    let probe = Probe::new();
    fds::each_open(|ep| {
        if probe.is_instance(ep) && !fdtable::is_private(ep) {
            registrations(ep, &mut |fd, events, data| {
                if fdtable::leads_to(fd, local) {
                    add(local, ep, fd, events, data);
                }
            });
        }
    });
}

/// A file that no epoll instance knows, or -1: to tell instances from other files by one call each. A link of `/proc` costs ten
/// times that, and a process with many descriptors has each of them looked at whenever it adopts a socket.
struct Probe(c_int);

impl Probe {
    fn new() -> Probe {
        // SAFETY: numbers only. EFD_CLOEXEC.
        Probe(unsafe { sys::call(Sysno::eventfd2, [0, 0o2_000_000, 0, 0, 0, 0]) }.map_or(-1, |fd| fd as c_int))
    }

    /// Takes the file out of what may be an instance: one says that it does not have it, any other file that it is none.
    fn is_instance(&self, fd: c_int) -> bool {
        let event = EpollEvent { events: 0, data: 0 };
        let args = [fd as usize, DEL as usize, self.0 as usize, &raw const event as usize, 0, 0];
        // SAFETY: the event is a local, and not looked at.
        match unsafe { sys::call(Sysno::epoll_ctl, args) } {
            Err(Errno::NOENT) => true,
            Err(Errno::INVAL) => false,
            // Refused by a sandbox, or no file to ask with.
            _ => is_linked(fd),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.0 >= 0 {
            sys::close(self.0);
        }
    }
}

/// Whether `/proc` says that a number is an epoll instance.
fn is_linked(fd: c_int) -> bool {
    let mut link = [0u8; 32];
    let mut path = [0u8; 40];
    text(&mut path, b"/proc/self/fd/", fd);
    // SAFETY: a C string and a buffer of the stated length.
    let n = unsafe {
        sys::call(Sysno::readlink, [path.as_ptr() as usize, link.as_mut_ptr() as usize, link.len(), 0, 0, 0])
    };
    n.is_ok_and(|n| link.get(..n) == Some(b"anon_inode:[eventpoll]"))
}

/// `prefix` and a decimal number as a C string.
fn text(to: &mut [u8; 40], prefix: &[u8], mut n: c_int) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(d) = digits.get_mut(at) {
            *d = b'0' + (n % 10) as u8;
        }
        n /= 10;
        if n == 0 || at == 0 {
            break;
        }
    }
    let tail = digits.get(at..).unwrap_or(&[]);
    *to = [0; 40];
    for (to, from) in to.iter_mut().zip(prefix.iter().chain(tail)) {
        *to = *from;
    }
}

/// Lines `tfd: 5 events: 19 data: 7 ...` (decimal, hexadecimal, hexadecimal) of an epoll instance.
pub(super) fn registrations(ep: c_int, f: &mut dyn FnMut(c_int, u32, u64)) {
    let mut path = [0u8; 40];
    text(&mut path, b"/proc/self/fdinfo/", ep);
    // SAFETY: a C string; O_RDONLY | O_CLOEXEC.
    let file = unsafe { sys::call(Sysno::openat, [-100_isize as usize, path.as_ptr() as usize, 0o2_000_000, 0, 0, 0]) };
    let Ok(file) = file else { return };
    let mut buf = [0u8; 4096];
    let mut have = 0;
    while let Some(room) = buf.get_mut(have..) {
        // SAFETY: a buffer of the stated length.
        let n = unsafe { sys::call(Sysno::read, [file, room.as_mut_ptr() as usize, room.len(), 0, 0, 0]) };
        let Ok(n @ 1..) = n else { break };
        have += n;
        let whole = buf.get(..have).and_then(|b| b.iter().rposition(|c| *c == b'\n')).map_or(0, |p| p + 1);
        for line in buf.get(..whole).unwrap_or(&[]).split(|c| *c == b'\n') {
            let mut words = line.split(|c| *c == b' ' || *c == b'\t').filter(|w| !w.is_empty());
            if words.next() == Some(b"tfd:") {
                let fd = words.next().and_then(|w| digits(w, 10));
                let events = words.nth(1).and_then(|w| digits(w, 16));
                let data = words.nth(1).and_then(|w| digits(w, 16));
                if let (Some(fd), Some(events), Some(data)) = (fd, events, data) {
                    f(fd as c_int, events as u32, data);
                }
            }
        }
        buf.copy_within(whole..have, 0);
        have -= whole;
    }
    sys::close(file as i32);
}

fn digits(word: &[u8], base: u32) -> Option<u64> {
    word.iter().try_fold(0u64, |n, b| {
        let d = (*b as char).to_digit(base)?;
        n.checked_mul(u64::from(base))?.checked_add(u64::from(d))
    })
}
