//! One line to descriptor 2, when `NLMMAP_LOG` asks for it; nothing otherwise. A line that would have to wait is left out.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};
use nlmmap_ring::sys;

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// A promise that cannot be kept.
    Error = 1,
    /// Something works less well than it could.
    Warn = 2,
    /// The life of endpoints, refusals with their reason.
    Info = 3,
    /// Each ring and mapping.
    Debug = 4,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Sets the level by its name; an unknown one means `info`.
pub fn set_level(name: &[u8]) {
    let level = match name {
        b"" | b"off" | b"0" => 0,
        b"error" => Level::Error as u8,
        b"warn" => Level::Warn as u8,
        b"debug" => Level::Debug as u8,
        _ => Level::Info as u8,
    };
    LEVEL.store(level, Ordering::Relaxed);
}

/// Whether lines of this level are written.
pub fn is_heard(level: Level) -> bool {
    LEVEL.load(Ordering::Relaxed) >= level as u8
}

/// A line of bounded length; what does not fit is left out.
struct Line {
    text: [u8; 400],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            // One place is kept for the line's end.
            if self.len + 1 < self.text.len()
                && let Some(to) = self.text.get_mut(self.len)
            {
                *to = b;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Writes one line.
#[cold]
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    if is_heard(level) {
        write(level, text);
    }
}

fn write(level: Level, text: fmt::Arguments<'_>) {
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let mut line = Line { text: [0; 400], len: 0 };
    let _ = write!(line, "nlmmap[{}]: {name}: {text}", sys::getpid());
    if let Some(end) = line.text.get_mut(line.len) {
        *end = b'\n';
    }
    // Whoever logs may hold a pump up: a pipe that nobody empties must not hold up the one that logs.
    if !sys::can_write(2) {
        return;
    }
    sys::write_once(2, line.text.get(..=line.len).unwrap_or(&[]));
}

/// The last line of a process whose interposer has a bug.
#[cfg(not(test))]
pub fn panic(info: &core::panic::PanicInfo<'_>) {
    write(Level::Error, format_args!("bug in the preload library: {info}"));
}

/// `info!("...")`: one line at level info.
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) };
}
/// `warn!("...")`
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) };
}
/// `debug!("...")`
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($arg)*)) };
}
pub(crate) use {debug, info, warning};
