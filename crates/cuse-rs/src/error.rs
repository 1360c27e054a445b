//! Why a device could not be made or served: the cause, and what cures it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::Errno;

/// Why a session could not be made, or ended badly.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// `/dev/cuse` or `/dev/fuse` does not exist, or no driver is behind it.
    NoDriver {
        /// The device that is missing.
        device: PathBuf,
        /// The kernel module that makes it.
        module: &'static str,
    },
    /// Opening the device or mounting is not permitted.
    Denied {
        /// What was tried.
        what: String,
    },
    /// The device's name cannot be one.
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A device of this name exists already.
    NameInUse {
        /// The name.
        name: String,
        /// What holds it.
        holder: PathBuf,
    },
    /// The device number asked for is taken.
    NumberInUse {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The kernel ended the connection instead of making the device.
    NotMade {
        /// The device's name.
        name: String,
    },
    /// The kernel speaks a version of the protocol that this crate does not.
    Version {
        /// The kernel's major version.
        major: u32,
        /// The kernel's minor version.
        minor: u32,
    },
    /// The kernel sent something else than the protocol's greeting.
    Protocol {
        /// What was wrong.
        what: String,
    },
    /// The kernel does not let files be mapped through to the daemon's memory.
    NoPassthrough,
    /// The directory cannot be mounted on.
    Mountpoint {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Something else is mounted there, and alive.
    Mounted {
        /// The directory.
        path: PathBuf,
        /// Type and source of the mount.
        mount: String,
    },
    /// A system call failed.
    Os {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { what, source }
    }

    /// The error of opening a driver's device.
    pub(crate) fn open(device: &str, module: &'static str, source: io::Error) -> Self {
        match Errno::from(source) {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Self::NoDriver { device: device.into(), module },
            Errno::EACCES | Errno::EPERM => Self::Denied { what: format!("opening {device}") },
            errno => Self::Os { what: "opening the driver's device", source: errno.into() },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver { device, module } => write!(
                f,
                "no {} on this system: load the kernel module with `modprobe {module}`, \
                 and in a container pass the device in",
                device.display()
            ),
            Self::Denied { what } => write!(
                f,
                "{what} is not permitted: run as root, with CAP_SYS_ADMIN \
                 in the initial user namespace"
            ),
            Self::BadName { name, reason } => {
                write!(f, "{name:?} cannot be a device's name: {reason}")
            }
            Self::NameInUse { name, holder } => write!(
                f,
                "the name {name:?} is in use: {} exists; stop the daemon that serves it, \
                 or choose another name",
                holder.display()
            ),
            Self::NumberInUse { major, minor } => {
                write!(f, "device number {major}:{minor} is in use: choose another, or let the kernel choose")
            }
            Self::NotMade { name } => {
                write!(f, "the kernel refused to make device {name:?}: see its log (dmesg) for the cause")
            }
            Self::Version { major, minor } => write!(
                f,
                "the kernel speaks FUSE protocol {major}.{minor}, 7.31 or later is needed: \
                 use Linux 5.4 or later"
            ),
            Self::Protocol { what } => write!(f, "the kernel did not greet as expected: {what}"),
            Self::NoPassthrough => f.write_str(
                "the kernel offers no FUSE passthrough, so the file cannot be mapped: \
                 use Linux 6.9 or later with CONFIG_FUSE_PASSTHROUGH, or a CUSE device",
            ),
            Self::Mountpoint { path, source } => {
                write!(f, "cannot mount on {}: {source}; it must be a directory", path.display())
            }
            Self::Mounted { path, mount } => write!(
                f,
                "{} is served already ({mount}): stop that daemon or choose another directory",
                path.display()
            ),
            Self::Os { what, source } => write!(f, "{what} failed: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mountpoint { source, .. } | Self::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_opening_name_device_and_cure() {
        let text = |errno: Errno| Error::open("/dev/cuse", "cuse", errno.into()).to_string();
        for missing in [Errno::ENOENT, Errno::ENODEV, Errno::ENXIO] {
            assert!(text(missing).contains("/dev/cuse") && text(missing).contains("modprobe cuse"));
        }
        for denied in [Errno::EACCES, Errno::EPERM] {
            assert!(text(denied).contains("/dev/cuse") && text(denied).contains("root"));
        }
        assert!(text(Errno::EMFILE).contains("Too many open files"));
    }
}
