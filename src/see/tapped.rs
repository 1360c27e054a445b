//! Copies of what passes through one endpoint's rings, asked for and read (`nlmmap_ring::tap`).
//!
//! The endpoint's process may do anything to the file, so it is read and written by copy, and each record is judged. Only the
//! word of flags in the endpoint's page is mapped, for a moment: it is the process's own too, and changes by single bits.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nlmmap_ring::card::Page;
use nlmmap_ring::control::flag::TAPPED;
use nlmmap_ring::tap::{CAPACITY, LEN, Record, SNAP, Tap, VERSION, kind};

use super::place::Found;
use crate::sys;

/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// One message or loss.
#[derive(Debug)]
pub struct Passed<'a> {
    pub record: Record,
    pub bytes: &'a [u8],
}

/// See the module. Dropped, nothing is copied any more.
#[derive(Debug)]
pub struct Tapped {
    page: File,
    file: File,
    path: PathBuf,
    tail: u64,
    buffer: Vec<u8>,
}

fn offset_of(field: usize) -> u64 {
    field as u64
}

impl Tapped {
    /// Asks for copies.
    ///
    /// # Errors
    /// In words.
    pub fn start(found: &Found) -> Result<Tapped, String> {
        let fail = |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", found.id);
        let mut path = found.path.clone().into_os_string();
        path.push(".tap");
        let path = PathBuf::from(path);
        if let Some(reader) = reader(&path)
            && reader != std::process::id()
            && Path::new(&format!("/proc/{reader}")).exists()
        {
            return Err(fail("is captured already", &format!("by process {reader}")));
        }
        let _ = fs::remove_file(&path);
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let page = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&found.path);
        let page = page.map_err(|e| fail("cannot be opened", &e))?;
        let about = page.metadata().map_err(|e| fail("cannot be looked at", &e))?;
        if !about.is_file() || about.len() != size_of::<Page>() as u64 {
            return Err(fail("is no endpoint any more", &"its file has changed"));
        }
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path);
        let file = file.map_err(|e| fail("no file for the copies", &e))?;
        let mut tapped = Tapped { page, file, path, tail: 0, buffer: Vec::new() };
        tapped.begin(about.uid()).map_err(|e| fail("no copies", &e))?;
        Ok(tapped)
    }

    fn begin(&mut self, uid: u32) -> io::Result<()> {
        // Its memory is there before it is used: the process would die where it cannot be had.
        nix::fcntl::fallocate(&self.file, nix::fcntl::FallocateFlags::empty(), 0, LEN as i64)?;
        if uid != self.file.metadata()?.uid() {
            fchown(&self.file, Some(uid), None)?;
        }
        let mut page = Page::default();
        self.page.read_exact_at(page.bytes_mut(), 0)?;
        let mut tap = Tap::default();
        tap.begin(&page.control);
        *tap.version.get_mut() = VERSION;
        *tap.reader.get_mut() = std::process::id();
        self.file.write_all_at(tap.bytes_mut(), 0)?;
        // Another number than the one before: the process opens the file anew.
        let number = page.card.tap.load(std::sync::atomic::Ordering::Relaxed).wrapping_add(1).max(1);
        let at = std::mem::offset_of!(Page, card) + std::mem::offset_of!(nlmmap_ring::card::Card, tap);
        self.page.write_all_at(&number.to_ne_bytes(), offset_of(at))?;
        self.flag(true)
    }

    fn flag(&self, on: bool) -> io::Result<()> {
        let at = std::mem::offset_of!(nlmmap_ring::control::Control, flags);
        sys::change_bits(self.page.as_raw_fd(), size_of::<Page>(), at, TAPPED, on)
    }

    fn word(&self, at: usize) -> io::Result<u64> {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, offset_of(at))?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Messages that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.word(std::mem::offset_of!(Tap, dropped)).unwrap_or(0)
    }

    /// Hands on what has come since the last time, about a mebibyte of it at most, and says whether there may be more.
    pub fn each(&mut self, mut f: impl FnMut(Passed<'_>) -> io::Result<()>) -> io::Result<bool> {
        let head = self.word(std::mem::offset_of!(Tap, head))?;
        let ready = head.wrapping_sub(self.tail);
        if ready > CAPACITY as u64 {
            return Err(io::Error::other("the process has written nonsense"));
        }
        let at = self.tail as usize % CAPACITY;
        let len = (ready as usize).min(CAPACITY - at).min(PART + SNAP);
        self.buffer.resize(len, 0);
        self.file.read_exact_at(&mut self.buffer, (nlmmap_ring::sys::PAGE + at) as u64)?;
        let mut done = 0;
        while let Some(rest) = self.buffer.get(done..).filter(|rest| rest.len() >= size_of::<Record>()) {
            let record = sys::record(rest);
            let span = record.len as usize;
            if span < size_of::<Record>() || !span.is_multiple_of(size_of::<Record>()) || at + done + span > CAPACITY {
                return Err(io::Error::other("the process has written nonsense"));
            }
            let Some(whole) = rest.get(..span) else { break };
            let bytes = whole.get(size_of::<Record>()..).and_then(|b| b.get(..record.kept as usize)).unwrap_or(&[]);
            if record.kind != kind::PAD {
                f(Passed { record, bytes })?;
            }
            done += span;
        }
        self.tail = self.tail.wrapping_add(done as u64);
        let at = std::mem::offset_of!(Tap, tail);
        self.file.write_all_at(&self.tail.to_ne_bytes(), offset_of(at))?;
        Ok(done > 0 && (done as u64) < ready)
    }
}

/// The process that reads a file of copies.
fn reader(path: &Path) -> Option<u32> {
    let (file, mut tap) = (super::place::open(path).ok()?, Tap::default());
    file.read_exact_at(tap.bytes_mut(), 0).ok()?;
    Some(*tap.reader.get_mut())
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let _ = self.flag(false);
        let _ = fs::remove_file(&self.path);
        // The process has it mapped for as long as it likes: the memory is given back now.
        let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let from = nlmmap_ring::sys::PAGE as i64;
        let _ = nix::fcntl::fallocate(&self.file, punch, from, CAPACITY as i64);
    }
}
