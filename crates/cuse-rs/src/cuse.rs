//! Character devices: the CUSE handshake on `/dev/cuse`.
//!
//! Opening `/dev/cuse` makes the kernel send CUSE_INIT; the answer carries limits and the packed
//! string `DEVNAME=name`, and the kernel makes the device before the write of the answer returns
//! (`fs/fuse/cuse.c`, `cuse_process_init_reply`). It tells of failure only by ending the connection.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::channel::Channel;
use crate::core::Core;
use crate::device::Device;
use crate::error::Error;
use crate::fd;
use crate::protocol::abi::CuseInitOut;
use crate::protocol::{Operation, Request, opcode};
use crate::session::{Session, greeting};

const DRIVER: &str = "/dev/cuse";
/// A CUSE connection moves at most 32 pages a request; no kernel negotiates more.
const MAX_TRANSFER: u32 = 128 * 1024;
/// The kernel raises smaller limits to this.
const MIN_TRANSFER: u32 = 4096;

/// A character device to be made: `/dev/NAME`.
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
/// let session = cuse_rs::Cuse::new("null2").mode(0o666).create(Arc::new(Null))?;
/// session.run(2)?;
/// # Ok::<(), cuse_rs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cuse {
    name: String,
    number: (u32, u32),
    max_read: u32,
    max_write: u32,
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
}

impl Cuse {
    /// A device of this name, with a number that the kernel chooses.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            number: (0, 0),
            max_read: MAX_TRANSFER,
            max_write: MAX_TRANSFER,
            mode: None,
            owner: (None, None),
        }
    }

    /// Asks for this device number, as rules that know devices by number need it.
    /// Major 0 lets the kernel choose.
    #[must_use]
    pub fn number(mut self, major: u32, minor: u32) -> Self {
        self.number = (major, minor);
        self
    }

    /// The largest read that comes in one request: 4 KiB to 128 KiB.
    #[must_use]
    pub fn max_read(mut self, bytes: u32) -> Self {
        self.max_read = bytes.clamp(MIN_TRANSFER, MAX_TRANSFER);
        self
    }

    /// The largest write that comes in one request: 4 KiB to 128 KiB. The kernel counts pages, so a
    /// buffer that does not start on a page border is cut one page earlier.
    #[must_use]
    pub fn max_write(mut self, bytes: u32) -> Self {
        self.max_write = bytes.clamp(MIN_TRANSFER, MAX_TRANSFER);
        self
    }

    /// Permissions of the node. Without, it is what devtmpfs and udev make it: 0600 at first.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// Owner and group of the node; `None` leaves them.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Makes the device. Clients can open it at once and wait until the session is served.
    ///
    /// # Errors
    ///
    /// No `/dev/cuse`, no permission, a bad or used name, a used number: each says what cures it.
    pub fn create<D: Device>(self, device: Arc<D>) -> Result<Session<D>, Error> {
        check_name(&self.name)?;
        self.check_unused()?;
        let fd = fd::open(Path::new(DRIVER)).map_err(|e| Error::open(DRIVER, "cuse", e))?;
        let channel = self.handshake(fd)?;
        self.check_made(&channel)?;
        let number = device_number(&self.name);
        self.dress_node(number)?;
        let core = Core::new(device, channel, None);
        Session::new(core, buffer_len(self.max_write), None, number)
    }

    fn handshake(&self, fd: OwnedFd) -> Result<Arc<Channel>, Error> {
        let channel = Arc::new(Channel::new(fd));
        let mut buffer = [0; opcode::MIN_READ_BUFFER];
        let len = greeting(&channel, &mut buffer)?;
        let request = Request::parse(buffer.get(..len).unwrap_or_default())
            .map_err(|error| Error::Protocol { what: error.to_string() })?;
        let Operation::CuseInit(init) = request.operation else {
            let what = format!("operation {} came first", request.header.opcode);
            return Err(Error::Protocol { what });
        };
        if init.major != opcode::MAJOR || init.minor < opcode::MINOR_OLDEST {
            let _ = channel.reply_error(request.header.unique, crate::Errno::EPROTO);
            return Err(Error::Version { major: init.major, minor: init.minor });
        }
        // Flags stay 0: ioctls keep the restricted form.
        let out = CuseInitOut {
            major: opcode::MAJOR,
            minor: init.minor.min(opcode::MINOR),
            max_read: self.max_read,
            max_write: self.max_write,
            dev_major: self.number.0,
            dev_minor: self.number.1,
            ..CuseInitOut::default()
        };
        let info = format!("DEVNAME={}\0", self.name);
        channel
            .reply(request.header.unique, &[out.as_bytes(), info.as_bytes()])
            .map_err(Error::os("answering CUSE_INIT"))?;
        Ok(channel)
    }

    /// The kernel looks for a second device of the name only among CUSE devices, and a node that is
    /// in the way just stays: so look before.
    fn check_unused(&self) -> Result<(), Error> {
        for holder in [sysfs(&self.name), Path::new("/dev").join(&self.name)] {
            if fs::symlink_metadata(&holder).is_ok() {
                return Err(Error::NameInUse { name: self.name.clone(), holder });
            }
        }
        Ok(())
    }

    /// The device is there, or the connection has ended.
    fn check_made(&self, channel: &Channel) -> Result<(), Error> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let ended = channel
            .with_fd(|fd| {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                Ok(fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
            })
            .map_err(Error::os("polling /dev/cuse"))?;
        if !ended {
            return Ok(());
        }
        self.check_unused()?;
        let (major, minor) = self.number;
        if major != 0 {
            return Err(Error::NumberInUse { major, minor });
        }
        Err(Error::NotMade { name: self.name.clone() })
    }

    /// Mode and owner, when the node in `/dev` is ours (in a container it may not be there).
    fn dress_node(&self, number: Option<(u32, u32)>) -> Result<(), Error> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let path = Path::new("/dev").join(&self.name);
        let Ok(node) = fs::symlink_metadata(&path) else {
            return Ok(());
        };
        let rdev = node.rdev();
        if number != Some((rustix::fs::major(rdev), rustix::fs::minor(rdev))) {
            return Ok(());
        }
        let (uid, gid) = self.owner;
        if uid.is_some() || gid.is_some() {
            std::os::unix::fs::lchown(&path, uid, gid).map_err(Error::os("changing the node's owner"))?;
        }
        if let Some(mode) = self.mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(Error::os("changing the node's mode"))?;
        }
        Ok(())
    }
}

fn sysfs(name: &str) -> PathBuf {
    Path::new("/sys/class/cuse").join(name)
}

fn device_number(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string(sysfs(name).join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Room for the largest request: a write, or an ioctl of 16 KiB.
pub(crate) fn buffer_len(max_write: u32) -> usize {
    (max_write as usize).max(64 * 1024) + opcode::MIN_READ_BUFFER
}

/// What the kernel would mangle (it trims blanks), cut (sysfs names) or put elsewhere (`/`, `!`).
fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it has more than 200 bytes"
    } else if name == "." || name == ".." {
        "it is a directory's"
    } else if name.contains(['/', '!']) {
        "it has a slash or an exclamation mark (which the kernel takes for one)"
    } else if name.contains(char::is_whitespace) || name.contains(char::is_control) {
        "it has a blank or a control character"
    } else {
        return Ok(());
    };
    Err(Error::BadName { name: name.into(), reason })
}

#[cfg(test)]
mod tests;
