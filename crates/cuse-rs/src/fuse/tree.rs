//! The directory and its one name: what the kernel asks about them, and the answers.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use zerocopy::IntoBytes;

use super::nodes::Nodes;
use crate::Errno;
use crate::channel::Channel;
use crate::protocol::abi::{Attr, AttrOut, Dirent, EntryOut, InHeader, OpenOut, StatfsOut};
use crate::protocol::{Operation, opcode};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const DT_DIR: u32 = 4;
const DT_REG: u32 = 8;
/// Inode number of the file in `stat` and `readdir`, whatever its node of the moment.
const FILE_INO: u64 = 2;
/// The directory never changes: its attributes are good for an hour.
const DIRECTORY_VALID: u64 = 3600;
const BLOCK: u32 = 4096;

/// Who may open the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) struct Tree {
    pub(crate) nodes: Arc<Nodes>,
    name: String,
    access: Access,
    made: u64,
}

impl Tree {
    pub(crate) fn new(nodes: Arc<Nodes>, name: String, access: Access) -> Self {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { nodes, name, access, made }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(nodes: Arc<Nodes>, name: &str, mode: u32, made: u64) -> Self {
        let access = Access { mode, uid: 0, gid: 0xfffe };
        Self { nodes, name: name.into(), access, made }
    }

    /// Serves what is asked about names and attributes.
    pub(crate) fn handle(&self, channel: &Channel, header: &InHeader, operation: Operation<'_>) {
        let unique = header.unique;
        // Errors of sending mean that nobody waits for the answer.
        let _ = match self.answer(header, operation) {
            Answer::None => Ok(()),
            Answer::Ok(body) => {
                let sent = channel.reply(unique, &[&body]);
                if let (Err(_), Operation::Lookup { .. }) = (&sent, operation) {
                    self.take_back(&body);
                }
                sent
            }
            Answer::Error(errno) => channel.reply_error(unique, errno),
        };
    }

    /// The kernel never heard of this node, so it will not forget it.
    fn take_back(&self, entry: &[u8]) {
        use zerocopy::FromBytes;
        if let Ok(entry) = EntryOut::read_from_bytes(entry) {
            self.nodes.forget(entry.nodeid, 1);
        }
    }

    fn answer(&self, header: &InHeader, operation: Operation<'_>) -> Answer {
        let node = header.nodeid;
        match operation {
            Operation::Lookup { name } => self.lookup(node, name),
            Operation::Forget(forget) => {
                self.nodes.forget(node, forget.nlookup);
                Answer::None
            }
            Operation::BatchForget(list) => {
                list.iter().for_each(|one| self.nodes.forget(one.nodeid, one.nlookup));
                Answer::None
            }
            Operation::Getattr(_) => self.getattr(node),
            Operation::Access(_) => Answer::Ok(Vec::new()),
            Operation::Statfs => {
                let out = StatfsOut { bsize: BLOCK, frsize: BLOCK, namelen: 255, ..<_>::default() };
                Answer::Ok(out.as_bytes().into())
            }
            Operation::Opendir(_) => Answer::Ok(OpenOut::default().as_bytes().into()),
            Operation::Readdir(read) => self.readdir(read.offset, read.size),
            Operation::Releasedir(_) | Operation::Fsyncdir => Answer::Ok(Vec::new()),
            // Size, mode and owner are the daemon's to say.
            Operation::Setattr => Answer::Error(Errno::EPERM),
            Operation::Fallocate => Answer::Error(Errno::EOPNOTSUPP),
            _ => Answer::Error(Errno::ENOSYS),
        }
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Answer {
        if parent != opcode::ROOT_ID {
            return Answer::Error(Errno::ENOTDIR);
        }
        if name != self.name.as_bytes() {
            return Answer::Error(Errno::ENOENT);
        }
        let nodeid = self.nodes.looked_up();
        // The name is valid for no time: each open looks it up anew, and gets its own node.
        let out = EntryOut { nodeid, attr: self.file_attr(nodeid), ..EntryOut::default() };
        Answer::Ok(out.as_bytes().into())
    }

    fn getattr(&self, node: u64) -> Answer {
        let mut out = AttrOut::default();
        if node == opcode::ROOT_ID {
            out.attr = self.directory_attr();
            out.attr_valid = DIRECTORY_VALID;
        } else if self.nodes.exists(node) {
            out.attr = self.file_attr(node);
        } else {
            return Answer::Error(Errno::ESTALE);
        }
        Answer::Ok(out.as_bytes().into())
    }

    fn file_attr(&self, node: u64) -> Attr {
        let size = self.nodes.size(node);
        let Access { mode, uid, gid } = self.access;
        Attr {
            ino: FILE_INO,
            size,
            blocks: size.div_ceil(512),
            mode: S_IFREG | mode,
            uid,
            gid,
            nlink: 1,
            ..self.attr()
        }
    }

    fn directory_attr(&self) -> Attr {
        Attr { ino: opcode::ROOT_ID, mode: S_IFDIR | 0o755, nlink: 2, ..self.attr() }
    }

    fn attr(&self) -> Attr {
        let made = self.made;
        Attr { atime: made, mtime: made, ctime: made, blksize: BLOCK, ..Attr::default() }
    }

    fn readdir(&self, offset: u64, size: u32) -> Answer {
        let entries =
            [(opcode::ROOT_ID, DT_DIR, "."), (opcode::ROOT_ID, DT_DIR, ".."), (FILE_INO, DT_REG, self.name.as_str())];
        let mut body = Vec::new();
        for ((ino, kind, name), off) in entries.into_iter().zip(1u64..) {
            if off <= offset {
                continue;
            }
            let namelen = name.len() as u32;
            let end = (body.len() + size_of::<Dirent>() + name.len()).next_multiple_of(8);
            if end > size as usize {
                break;
            }
            body.extend_from_slice(Dirent { ino, off, namelen, kind }.as_bytes());
            body.extend_from_slice(name.as_bytes());
            body.resize(end, 0);
        }
        Answer::Ok(body)
    }
}

enum Answer {
    None,
    Ok(Vec<u8>),
    Error(Errno),
}
