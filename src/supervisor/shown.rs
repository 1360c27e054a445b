//! What others may look at: each socket's page is a file of its user's, as the library's are (docs/observing.md).

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nlmmap_ring::card::{TOTALS_LEN, Totals, VERSION};
use nlmmap_ring::endpoint::Endpoint;
use nlmmap_ring::{sys, tap};

use crate::see::place;

/// Names that are tried for a page.
const TRIES: u32 = 64;

static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Where the pages of living endpoints are, by the address of their shared state: a capture asks by that.
static PAGES: Mutex<Vec<(usize, PathBuf)>> = Mutex::new(Vec::new());

/// Where pages are made.
#[derive(Clone)]
pub struct Shown {
    dir: PathBuf,
    /// What the endpoints of a command add up to (`nlmmap run --summary`).
    totals: Option<&'static Totals>,
}

/// One endpoint's page.
pub struct Page {
    path: PathBuf,
    key: usize,
    totals: Option<&'static Totals>,
}

impl Shown {
    /// `summary`: the directory of a command that is summed up. Else the user's own, unless `NLMMAP_VIEW` says otherwise.
    pub fn find(summary: Option<&Path>) -> Option<Shown> {
        let wish = std::env::var_os("NLMMAP_VIEW").unwrap_or_default();
        let dir = match (summary, wish.to_str()) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some("off" | "0")) => return None,
            (None, Some(dir)) if dir.starts_with('/') => dir.into(),
            // By a file of its user's, a process with capabilities would let those have a say that have none.
            (None, _) if !nix::unistd::geteuid().is_root() && super::has_rights() => return None,
            _ => place::own().ok()?,
        };
        // As the library: a directory of this user's that is nobody else's.
        let about = fs::symlink_metadata(&dir).ok()?;
        let is_own = about.uid() == nix::unistd::geteuid().as_raw() && about.mode() & 0o077 == 0;
        if !about.is_dir() || !is_own {
            return None;
        }
        tap::open_by(open_tap);
        Some(Shown { totals: map(&dir.join("totals"), TOTALS_LEN).and_then(totals), dir })
    }

    /// Gives an endpoint that was just opened, and has no ring, a page that others may see. `None`: nothing has changed.
    pub fn begin(&self, endpoint: &Endpoint, tgid: u32, strict: bool) -> Option<Page> {
        let names = (0..TRIES).map(|_| format!("{tgid}.{}", NUMBER.fetch_add(1, Ordering::Relaxed) + 1));
        let (path, file) = names.map(|name| self.dir.join(name)).find_map(|path| Some((path.clone(), make(&path)?)))?;
        let family = endpoint.family.load(Ordering::Relaxed);
        let shown = endpoint.show_at(file.as_raw_fd());
        if shown.is_err() {
            let _ = fs::remove_file(&path);
            // What was in the page's place may be gone.
            // SAFETY: this process has one thread.
            unsafe { endpoint.reset() };
            endpoint.open(family, strict).ok()?;
            return None;
        }
        let key = key(endpoint);
        PAGES.lock().unwrap_or_else(PoisonError::into_inner).push((key, path.clone()));
        Some(Page { path, key, totals: self.totals })
    }
}

impl Page {
    /// The endpoint is over.
    pub fn end(&self, endpoint: &Endpoint) {
        PAGES.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _)| *key != self.key);
        if let (Some(totals), Some(card), Some(control)) = (self.totals, endpoint.card(), endpoint.control())
            && card.count()
        {
            totals.add(card, control);
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Says whose an endpoint is.
pub fn describe(endpoint: &Endpoint, tgid: u32, number: i32, cookie: u64) {
    let Some(card) = endpoint.card() else { return };
    let text = |file: &str| fs::read_to_string(format!("/proc/{tgid}/{file}")).unwrap_or_default();
    let stat = text("stat");
    // Behind the name, which may hold anything: field 22.
    let start = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(22 - 3)?.parse().ok());
    card.pid.store(tgid, Ordering::Relaxed);
    card.uid.store(nix::unistd::geteuid().as_raw(), Ordering::Relaxed);
    card.fd.store(number.cast_unsigned(), Ordering::Relaxed);
    card.family.store(endpoint.family.load(Ordering::Relaxed), Ordering::Relaxed);
    card.strict.store(u32::from(endpoint.strict.load(Ordering::Relaxed)), Ordering::Relaxed);
    card.cookie.store(cookie, Ordering::Relaxed);
    card.start.store(start.unwrap_or(0), Ordering::Relaxed);
    // A program that is executed in its place has it still.
    card.stack.store(0, Ordering::Relaxed);
    card.made.store(sys::now(), Ordering::Relaxed);
    card.name(text("comm").trim_end_matches('\n').as_bytes());
    card.version.store(VERSION, Ordering::Release);
}

/// Its state is at one place as long as it lives.
fn key(endpoint: &Endpoint) -> usize {
    endpoint.control().map_or(0, |control| std::ptr::from_ref(control).addr())
}

/// A file of one zeroed page, whose memory is there: one that cannot be had later would end the supervisor.
fn make(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(path).ok()?;
    match nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, sys::PAGE as i64) {
        Ok(()) => Some(file),
        Err(_) => {
            let _ = fs::remove_file(path);
            None
        }
    }
}

/// Maps a file of this user's, and of that length, for good.
fn map(path: &Path, len: usize) -> Option<*mut u8> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
    let about = file.metadata().ok()?;
    let is_own = about.is_file() && about.uid() == nix::unistd::geteuid().as_raw() && about.len() == len as u64;
    if is_own { sys::map_fd(file.as_raw_fd(), len).ok() } else { None }
}

fn totals(at: *mut u8) -> Option<&'static Totals> {
    // SAFETY: mapped for good, page-aligned, of that length; any bytes are a Totals, which is atomics only.
    let totals = unsafe { &*at.cast::<Totals>() };
    (totals.version.load(Ordering::Acquire) == VERSION).then_some(totals)
}

/// The file into which what passes through an endpoint is copied (`nlmmap capture`).
fn open_tap(endpoint: &Endpoint) -> *mut u8 {
    let key = key(endpoint);
    let pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let path = pages.iter().find(|(of, _)| *of == key).map(|(_, path)| path.with_extension(tap_extension(path)));
    path.and_then(|path| map(&path, tap::LEN)).unwrap_or(std::ptr::null_mut())
}

/// `PID.NUMBER` becomes `PID.NUMBER.tap`.
fn tap_extension(page: &Path) -> String {
    format!("{}.tap", page.extension().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_there_as_long_as_its_endpoint_and_is_counted_then() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Shown::find(Some(dir.path())).is_none(), "others may look into it");
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(dir.path().join("totals"), [&VERSION.to_ne_bytes()[..], &vec![0; TOTALS_LEN - 4]].concat()).unwrap();
        let shown = Shown::find(Some(dir.path())).unwrap();
        let endpoint = Endpoint::empty();
        endpoint.open(0, false).unwrap();
        let page = shown.begin(&endpoint, std::process::id(), false).unwrap();
        describe(&endpoint, std::process::id(), 800, 7);
        let control = endpoint.control().unwrap();
        control.counters.rx_frames.store(5, Ordering::Relaxed);
        let found = |dir: &Path| place::inside(dir);
        let seen = found(dir.path());
        assert_eq!(seen.len(), 1);
        assert!(seen[0].alive && seen[0].seen.counts.rx_frames == 5 && seen[0].seen.fd == 800, "{seen:?}");
        assert_eq!(
            page.path.with_extension(tap_extension(&page.path)).to_string_lossy(),
            format!("{}.tap", page.path.display())
        );
        page.end(&endpoint);
        assert!(found(dir.path()).is_empty());
        let counted = &shown.totals.unwrap().records[0];
        assert_eq!(counted.counters.rx_frames.load(Ordering::Relaxed), 5);
    }
}
