//! Where the files lie: a directory that nobody but the user can write to or look into.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};
use linux_raw_sys::general as g;
use nlmmap_ring::card::Page;
use nlmmap_ring::errno::{Errno, Result};
use nlmmap_ring::sys;
use syscalls::Sysno;

/// `O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK`
pub const READ_WRITE: usize = 2 | SAFELY;
/// What every file is opened with: nothing that hangs, leads elsewhere or is inherited.
const SAFELY: usize = 0o400_000 | 0o2_000_000 | 0o4000;
const CREATE: usize = 0o100 | 0o200;
const DIRECTORY: usize = 0o200_000;
const AT_FDCWD: usize = -100_isize as usize;
const LONGEST: usize = 256;
/// Files of the dead that are looked at in one go.
const SWEEP: usize = 64;

/// The environment's directories with their end, copied: a program may write over its environment.
static RUNTIME: [AtomicU8; LONGEST] = [const { AtomicU8::new(0) }; LONGEST];
static WISHED: [AtomicU8; LONGEST] = [const { AtomicU8::new(0) }; LONGEST];

fn note(to: &[AtomicU8; LONGEST], path: &[u8]) -> bool {
    let fits = path.len() < LONGEST;
    if fits {
        to.iter().zip(path).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
    }
    fits
}

/// Notes `XDG_RUNTIME_DIR`.
pub fn note_runtime(path: &[u8]) {
    note(&RUNTIME, path);
}

/// Notes the directory of `NLMMAP_VIEW`. `false`: it is too long.
pub fn note_wish(path: &[u8]) -> bool {
    note(&WISHED, path)
}

/// A C string that is put together. What does not fit makes it empty.
pub struct Path {
    text: [u8; LONGEST + 16],
    len: usize,
}

impl Path {
    fn new() -> Path {
        Path { text: [0; LONGEST + 16], len: 0 }
    }

    #[inline(never)]
    fn of(args: fmt::Arguments<'_>) -> Path {
        let mut path = Path::new();
        if path.write_fmt(args).is_err() {
            path = Path::new();
        }
        path
    }

    #[inline(never)]
    fn noted(from: &[AtomicU8; LONGEST]) -> Path {
        let mut path = Path::new();
        for from in from {
            let byte = from.load(Ordering::Relaxed);
            match path.text.get_mut(path.len) {
                Some(to) if byte != 0 => *to = byte,
                _ => break,
            }
            path.len += 1;
        }
        path
    }

    /// The name of an endpoint's file.
    pub fn of_endpoint(pid: u32, number: u32) -> Path {
        Path::of(format_args!("{pid}.{number}"))
    }

    fn c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.text).unwrap_or(c"")
    }
}

impl Write for Path {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let to = self.text.get_mut(self.len..self.len + s.len()).ok_or(fmt::Error)?;
        to.copy_from_slice(s.as_bytes());
        self.len += s.len();
        // Its end.
        if self.len < LONGEST + 15 { Ok(()) } else { Err(fmt::Error) }
    }
}

#[inline(never)]
fn status(file: i32) -> Result<g::stat> {
    let mut status: MaybeUninit<g::stat> = MaybeUninit::zeroed();
    // SAFETY: room for one stat.
    unsafe { sys::call(Sysno::fstat, [file as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0]) }?;
    // SAFETY: plain integers, zeroed before the call.
    Ok(unsafe { status.assume_init() })
}

#[inline(never)]
fn open_at(dir: usize, name: &CStr, flags: usize) -> Result<i32> {
    // SAFETY: a C string and numbers.
    unsafe { sys::call(Sysno::openat, [dir, name.as_ptr() as usize, flags, 0o600, 0, 0]) }.map(|fd| fd as i32)
}

/// The user whose files this process makes.
pub fn user() -> u32 {
    // SAFETY: no arguments.
    unsafe { sys::call(Sysno::geteuid, [0; 6]) }.unwrap_or(u32::MAX as usize) as u32
}

/// Whether a file is one of this user's, of that length, and nothing but a file.
pub fn is_own_file(file: i32, len: usize) -> bool {
    const FILE: u32 = 0o100_000;
    status(file).is_ok_and(|s| s.st_mode & 0o170_000 == FILE && s.st_uid == user() && s.st_size == len as i64)
}

/// The directory, open.
pub struct Dir(i32);

impl Drop for Dir {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}

impl Dir {
    /// The directory of `NLMMAP_VIEW`.
    pub fn wished() -> Option<Dir> {
        let path = Path::noted(&WISHED);
        if path.len > 0 { Dir::open_own(&path, user()) } else { None }
    }

    /// The one to use, made if need be.
    #[inline(never)]
    pub fn find() -> Option<Dir> {
        Dir::wished().or_else(|| {
            let uid = user();
            let runtime = Path::noted(&RUNTIME);
            if uid != 0 && runtime.len > 0 {
                let mut path = runtime;
                path.write_str("/nlmmap").ok()?;
                if let Some(dir) = Dir::open_own(&path, uid) {
                    return Some(dir);
                }
            }
            let by_uid = |path| Dir::open_own(&path, uid);
            let of_session = if uid == 0 { None } else { by_uid(Path::of(format_args!("/run/user/{uid}/nlmmap"))) };
            of_session
                .or_else(|| by_uid(Path::of(format_args!("/run/nlmmap-{uid}"))))
                .or_else(|| by_uid(Path::of(format_args!("/tmp/nlmmap-{uid}"))))
        })
    }

    /// Opens a directory, made if it is not there, that is this user's and nobody else's.
    #[inline(never)]
    fn open_own(path: &Path, uid: u32) -> Option<Dir> {
        let name = path.c_str();
        if name.is_empty() {
            return None;
        }
        let dir = open_at(AT_FDCWD, name, DIRECTORY | SAFELY)
            .or_else(|e| {
                if e != Errno(2) {
                    return Err(e);
                }
                // SAFETY: a C string and a mode.
                unsafe { sys::call(Sysno::mkdirat, [AT_FDCWD, name.as_ptr() as usize, 0o700, 0, 0, 0]) }?;
                open_at(AT_FDCWD, name, DIRECTORY | SAFELY)
            })
            .ok()?;
        let dir = Dir(dir);
        let s = status(dir.0).ok()?;
        (s.st_uid == uid && s.st_mode & 0o077 == 0).then_some(dir)
    }

    /// Opens a file that is there.
    pub fn open(&self, name: &CStr, flags: usize) -> Result<i32> {
        open_at(self.0 as usize, name, flags)
    }

    /// Opens the file for copies of what passes through an endpoint.
    pub fn open_tap(&self, pid: u32, number: u32) -> Option<i32> {
        self.open(Path::of(format_args!("{pid}.{number}.tap")).c_str(), READ_WRITE).ok()
    }

    /// Makes a file of `len` zeroed bytes, whose memory is there: a page that cannot be had later would end the program. Another
    /// of that name is in the way if it is used, or `all_count`.
    #[inline(never)]
    pub fn make(&self, name: &Path, len: usize, all_count: bool) -> Result<i32> {
        let flags = READ_WRITE | CREATE;
        let file = self.open(name.c_str(), flags).or_else(|e| {
            if e != Errno::EXIST || all_count || self.is_used(name) {
                return Err(e);
            }
            // Another process of this number, or another program in this one, has left it behind.
            self.remove(name);
            self.open(name.c_str(), flags)
        })?;
        // SAFETY: numbers only.
        match unsafe { sys::call(Sysno::fallocate, [file as usize, 0, 0, len, 0, 0]) } {
            Ok(_) => Ok(file),
            Err(e) => {
                sys::close(file);
                self.remove(name);
                Err(e)
            }
        }
    }

    /// Takes a file away.
    #[inline(never)]
    pub fn remove(&self, name: &Path) {
        // SAFETY: a C string.
        let _ = unsafe { sys::call(Sysno::unlinkat, [self.0 as usize, name.c_str().as_ptr() as usize, 0, 0, 0, 0]) };
    }

    /// Takes files away whose processes are gone, not more than a few at once.
    #[cold]
    #[inline(never)]
    pub fn sweep(&self) {
        let mut buf = [0u8; 4096];
        let mut left = SWEEP;
        loop {
            let args = [self.0 as usize, buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0];
            // SAFETY: a buffer of the stated length.
            let Ok(n @ 1..) = (unsafe { sys::call(Sysno::getdents64, args) }) else { return };
            let mut at = 0;
            // struct linux_dirent64: length at 16 (2 bytes), name from 19 on.
            while at < n
                && let Some(&[lo, hi]) = buf.get(at + 16..at + 18).and_then(|b| b.first_chunk::<2>())
            {
                let len = u16::from_ne_bytes([lo, hi]) as usize;
                if let Some((pid, number)) = endpoint(buf.get(at + 19..(at + len).min(n)).unwrap_or(&[])) {
                    let name = Path::of_endpoint(pid, number);
                    if sys::is_dead(pid) && !self.is_used(&name) {
                        self.remove(&name);
                    }
                    left -= 1;
                }
                at += len.max(19);
                if left == 0 {
                    return;
                }
            }
        }
    }

    /// Whether some process has the rings of an endpoint mapped whose maker is gone.
    #[inline(never)]
    fn is_used(&self, name: &Path) -> bool {
        let Ok(file) = self.open(name.c_str(), SAFELY) else { return true };
        let mut page = Page::default();
        let bytes = page.bytes_mut();
        let read =
            // SAFETY: a buffer of the stated length.
            unsafe { sys::call(Sysno::pread64, [file as usize, bytes.as_mut_ptr() as usize, bytes.len(), 0, 0, 0]) };
        sys::close(file);
        read == Ok(sys::PAGE) && page.control.is_mapped(|pid| pid != sys::getpid() && !sys::is_dead(pid))
    }
}

/// The process and the number in a file's name.
fn endpoint(name: &[u8]) -> Option<(u32, u32)> {
    let mut rest = name.iter();
    let most = i32::MAX as u64;
    let pid = decimal(&mut rest, b'.', most)?;
    Some((pid as u32, decimal(&mut rest, 0, most)? as u32))
}

/// Reads a number up to `end`, which it takes away too.
#[inline(never)]
fn decimal(text: &mut core::slice::Iter<'_, u8>, end: u8, most: u64) -> Option<u64> {
    let mut number = None;
    for byte in text {
        if *byte == end {
            return number;
        }
        let digit = byte.checked_sub(b'0').filter(|d| *d < 10)?;
        number = Some(number.unwrap_or(0) * 10 + u64::from(digit)).filter(|n| *n <= most);
        number?;
    }
    None
}

/// What `/proc` says of this process.
#[derive(Default)]
pub struct Myself {
    /// Field 22: when it began.
    pub start: u64,
    /// Field 28: where its stack does.
    pub stack: u64,
    /// Its name.
    pub name: [u8; 16],
}

/// Reads it; zeroes where there is no `/proc`.
pub fn myself() -> Myself {
    let mut text = [0u8; 1024];
    let read = open_at(AT_FDCWD, c"/proc/self/stat", SAFELY).and_then(|file| {
        // SAFETY: a buffer of the stated length.
        let read = unsafe { sys::call(Sysno::read, [file as usize, text.as_mut_ptr() as usize, text.len(), 0, 0, 0]) };
        sys::close(file);
        read
    });
    read.ok().and_then(|n| parse(text.get(..n)?)).unwrap_or_default()
}

fn parse(text: &[u8]) -> Option<Myself> {
    let (open, close) = (text.iter().position(|b| *b == b'(')?, text.iter().rposition(|b| *b == b')')?);
    let mut me = Myself::default();
    me.name.iter_mut().zip(text.get(open + 1..close)?).for_each(|(to, from)| *to = *from);
    // A space, then field 3.
    let mut rest = text.get(close + 2..)?.iter();
    for nr in 3..=28 {
        match nr {
            22 => me.start = decimal(&mut rest, b' ', u64::MAX / 16)?,
            28 => me.stack = decimal(&mut rest, b' ', u64::MAX / 16)?,
            _ => _ = rest.position(|b| *b == b' ')?,
        }
    }
    Some(me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(endpoint(b"12.3\0\0"), Some((12, 3)));
        for bad in [&b"12.3"[..], b"totals\0", b".\0", b"1.\0", b"1.2.3\0", b"-1.2\0", b"99999999999.1\0"] {
            assert_eq!(endpoint(bad), None);
        }
    }

    #[test]
    fn stat_is_read_behind_any_name() {
        let me = parse(b"7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1922 20 21 22 23 24 2528 26");
        let me = me.unwrap_or_default();
        assert_eq!((me.start, me.stack, &me.name[..8]), (1922, 2528, &b"a) b (c)"[..]));
        assert!(parse(b"7 (a) S 1").is_none());
        assert!(myself().start > 0 && myself().stack > 0);
    }

    #[test]
    fn a_path_that_does_not_fit_is_none() {
        let long = "x".repeat(LONGEST + 15);
        assert!(Path::of(format_args!("{long}")).c_str().is_empty());
        assert_eq!(Path::of(format_args!("{}", &long[..LONGEST])).c_str().to_bytes().len(), LONGEST);
    }
}
