//! Copies of what passes through the rings of a process's endpoint, asked for (`nlmmap_ring::tap`).
//!
//! Only the word of flags in the endpoint's page is mapped, for a moment: it is the process's own too, and changes by single bits.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nlmmap_ring::card::Page;
use nlmmap_ring::control::flag::TAPPED;
use nlmmap_ring::tap::{CAPACITY, LEN, Tap, VERSION};

use super::copies::Copies;
use super::place::Found;
use crate::sys;

/// How often, and how soon one after the other, the end of a capture is tried.
const TRIES: u32 = 100;
const NAP: Duration = Duration::from_millis(1);

/// See the module. Dropped, nothing is copied any more.
#[derive(Debug)]
pub struct Tapped {
    page: File,
    pub copies: Copies,
    path: PathBuf,
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
            && Path::new(&format!("/proc/{reader}")).try_exists().unwrap_or(true)
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
        let tapped = Tapped { page, copies: Copies::new(file), path };
        tapped.begin(about.uid()).map_err(|e| fail("no copies", &e))?;
        Ok(tapped)
    }

    fn begin(&self, uid: u32) -> io::Result<()> {
        // Its memory is there before it is used: the process would die where it cannot be had.
        let file = self.copies.file();
        nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, LEN as i64)?;
        if uid != file.metadata()?.uid() {
            fchown(file, Some(uid), None)?;
        }
        let mut page = Page::default();
        self.page.read_exact_at(page.bytes_mut(), 0)?;
        let mut tap = Tap::default();
        tap.begin(&page.control);
        *tap.version.get_mut() = VERSION;
        *tap.reader.get_mut() = std::process::id();
        self.copies.file().write_all_at(tap.bytes_mut(), 0)?;
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
}

/// The process that reads a file of copies.
fn reader(path: &Path) -> Option<u32> {
    let (file, mut tap) = (super::place::open(path).ok()?, Tap::default());
    file.read_exact_at(tap.bytes_mut(), 0).ok()?;
    Some(*tap.reader.get_mut())
}

impl Drop for Tapped {
    fn drop(&mut self) {
        // As long as it is set the process copies, for nobody.
        for _ in 0..TRIES {
            if self.flag(false).is_ok() {
                break;
            }
            std::thread::sleep(NAP);
        }
        let _ = fs::remove_file(&self.path);
        // The process has it mapped for as long as it likes: the memory is given back now.
        let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let from = nlmmap_ring::sys::PAGE as i64;
        let _ = nix::fcntl::fallocate(self.copies.file(), punch, from, CAPACITY as i64);
    }
}
