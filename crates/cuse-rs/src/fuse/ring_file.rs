//! Making a ring file: mount and FUSE handshake on `/dev/fuse`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::mount::{Mount, Options};
use super::nodes::Nodes;
use super::tree::{Access, Tree};
use crate::channel::Channel;
use crate::core::Core;
use crate::cuse::buffer_len;
use crate::device::Device;
use crate::error::Error;
use crate::fd;
use crate::protocol::abi::FuseInitOut;
use crate::protocol::{Operation, Request, opcode};
use crate::session::{Session, greeting};

const DRIVER: &str = "/dev/fuse";
const PAGE: u32 = 4096;
const MAX_TRANSFER: u32 = 1024 * 1024;

/// Whether files must be mappable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// A kernel that cannot is an error.
    #[default]
    Required,
    /// Use it when the kernel can; else answering an open with a backing fails with `EOPNOTSUPP`.
    IfAvailable,
    /// Do not use it.
    Off,
}

/// A ring file to be made: one file, in a directory that is mounted.
///
/// Its `read`, `write`, `ioctl` and `poll` reach the device as those of a character device do;
/// its `mmap` is the memory the device answered the open with ([`Opening::backing`]).
///
/// [`Opening::backing`]: crate::Opening::backing
///
/// ```no_run
/// # use std::sync::Arc;
/// # struct Null;
/// # impl cuse_rs::Device for Null {
/// #     type File = ();
/// #     fn open(&self, _: &cuse_rs::OpenRequest, reply: cuse_rs::OpenReply<()>) {
/// #         let _ = reply.opened(());
/// #     }
/// # }
/// let session = cuse_rs::RingFile::new("/run/rings", "ring").mode(0o666).mount(Arc::new(Null))?;
/// session.run(2)?;
/// # Ok::<(), cuse_rs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RingFile {
    directory: PathBuf,
    name: String,
    access: Access,
    passthrough: Passthrough,
    max_read: u32,
    max_write: u32,
}

impl RingFile {
    /// A file of this name in this directory, which exists; mode 0600, owned by root.
    ///
    /// Publish the directory, or a symbolic link to the file. A bind mount of the file itself
    /// would pin one node, so that all who open it there share one open's memory.
    pub fn new(directory: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            name: name.into(),
            access: Access { mode: 0o600, uid: 0, gid: 0 },
            passthrough: Passthrough::default(),
            max_read: 128 * 1024,
            max_write: 128 * 1024,
        }
    }

    /// Permissions of the file; the kernel checks them.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.access.mode = mode & 0o777;
        self
    }

    /// Owner and group of the file.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.access.uid, self.access.gid) = (uid, gid);
        self
    }

    /// Whether the file must be mappable; it must by default.
    #[must_use]
    pub fn passthrough(mut self, passthrough: Passthrough) -> Self {
        self.passthrough = passthrough;
        self
    }

    /// The largest read that comes in one request: 4 KiB to 1 MiB, 128 KiB by default.
    #[must_use]
    pub fn max_read(mut self, bytes: u32) -> Self {
        self.max_read = bytes.clamp(PAGE, MAX_TRANSFER);
        self
    }

    /// The largest write that comes in one request: 4 KiB to 1 MiB, 128 KiB by default.
    #[must_use]
    pub fn max_write(mut self, bytes: u32) -> Self {
        self.max_write = bytes.clamp(PAGE, MAX_TRANSFER);
        self
    }

    /// Mounts the directory. Clients can open the file at once and wait until it is served.
    ///
    /// A dead FUSE mount in the way (a daemon that was killed) is cleared; a live one is an error.
    ///
    /// # Errors
    ///
    /// No `/dev/fuse`, no permission, no directory, a live mount, a kernel without passthrough:
    /// each says what cures it.
    pub fn mount<D: Device>(self, device: Arc<D>) -> Result<Session<D>, Error> {
        check_name(&self.name)?;
        let fd = fd::open(Path::new(DRIVER)).map_err(|e| Error::open(DRIVER, "fuse", e))?;
        let options = Options { source: &self.name, max_read: self.max_read };
        let mount = Mount::new(&self.directory, &fd, options)?;
        let handshake = self.handshake(fd);
        let (channel, passthrough) = match handshake {
            Ok(done) => done,
            Err(error) => {
                // The error that counts is the handshake's; its channel is closed, so nothing
                // can hold the mount.
                let _ = mount.unmount();
                return Err(error);
            }
        };
        let nodes = Nodes::new(channel.clone(), passthrough);
        let tree = Tree::new(nodes, self.name, self.access);
        let core = Core::new(device, channel, Some(tree));
        Session::new(core, buffer_len(self.max_write), Some(mount), None)
    }

    fn handshake(&self, fd: OwnedFd) -> Result<(Arc<Channel>, bool), Error> {
        let channel = Arc::new(Channel::new(fd));
        let mut buffer = [0; opcode::MIN_READ_BUFFER];
        let len = greeting(&channel, &mut buffer)?;
        let request = Request::parse(buffer.get(..len).unwrap_or_default())
            .map_err(|error| Error::Protocol { what: error.to_string() })?;
        let Operation::FuseInit(init, ext) = request.operation else {
            let what = format!("operation {} came first", request.header.opcode);
            return Err(Error::Protocol { what });
        };
        let unique = request.header.unique;
        if init.major != opcode::MAJOR || init.minor < opcode::MINOR_OLDEST {
            let _ = channel.reply_error(unique, crate::Errno::EPROTO);
            return Err(Error::Version { major: init.major, minor: init.minor });
        }
        let mut offered = u64::from(init.flags);
        if offered & opcode::INIT_EXT != 0 {
            offered |= u64::from(ext.flags2) << 32;
        }
        let wanted = self.wanted_flags();
        let flags = offered & wanted;
        let passthrough = flags & opcode::INIT_PASSTHROUGH != 0;
        if self.passthrough == Passthrough::Required && !passthrough {
            let _ = channel.reply_error(unique, crate::Errno::EPROTO);
            return Err(Error::NoPassthrough);
        }
        let out = FuseInitOut {
            major: opcode::MAJOR,
            minor: init.minor.min(opcode::MINOR),
            max_readahead: 0,
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            max_background: 64,
            congestion_threshold: 48,
            max_write: self.max_write,
            time_gran: 1,
            // One more than the bytes need: a buffer rarely starts on a page border, and a message
            // must not be cut for that.
            max_pages: (self.max_read.max(self.max_write).div_ceil(PAGE) + 1).min(256) as u16,
            // Memory that clients map lies on a plain file system, not on a stacked one.
            max_stack_depth: u32::from(passthrough),
            ..FuseInitOut::default()
        };
        channel.reply(unique, &[out.as_bytes()]).map_err(Error::os("answering FUSE_INIT"))?;
        Ok((channel, passthrough))
    }

    /// `O_TRUNC` comes with the open, where it means nothing, not as a change of size, which is
    /// refused: so a shell's `> file` works.
    fn wanted_flags(&self) -> u64 {
        let passthrough = match self.passthrough {
            Passthrough::Off => 0,
            Passthrough::Required | Passthrough::IfAvailable => opcode::INIT_PASSTHROUGH,
        };
        opcode::INIT_ATOMIC_O_TRUNC
            | opcode::INIT_BIG_WRITES
            | opcode::INIT_PARALLEL_DIROPS
            | opcode::INIT_MAX_PAGES
            | opcode::INIT_EXT
            | passthrough
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 255 {
        "it has more than 255 bytes"
    } else if name == "." || name == ".." {
        "it is a directory's"
    } else if name.contains(['/', '\0']) {
        "it has a slash or a NUL"
    } else {
        return Ok(());
    };
    Err(Error::BadName { name: name.into(), reason })
}

#[cfg(test)]
mod tests;
