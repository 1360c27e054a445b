//! The nodes of a ring file: one for each look-up, so that each open has memory of its own.
//!
//! A node is alive while the kernel remembers it (look-ups not yet forgotten) or has it open.
//! The kernel binds one backing to an inode, so a node has at most one, made by the first open
//! that wants one and held until the last open file is released: taken back earlier, it would be
//! missing when the kernel comes to use the OPEN reply, and the client would get `EIO`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::channel::{Channel, lock};
use crate::device::FileHandle;
use crate::{Errno, fd};

/// Memory that a node's open files map.
struct Backing {
    id: i32,
    memory: Arc<OwnedFd>,
}

#[derive(Default)]
struct Node {
    lookups: u64,
    /// The files that are open, or being opened, by age.
    open: Vec<FileHandle>,
    backing: Option<Backing>,
}

/// All nodes but the directory.
pub(crate) struct Nodes {
    channel: Arc<Channel>,
    passthrough: bool,
    next: AtomicU64,
    nodes: Mutex<HashMap<u64, Node>>,
}

impl Nodes {
    pub(crate) fn new(channel: Arc<Channel>, passthrough: bool) -> Arc<Self> {
        // 1 is the directory.
        let next = AtomicU64::new(2);
        Arc::new(Self { channel, passthrough, next, nodes: Mutex::default() })
    }

    /// A look-up found the file: a node of its own.
    pub(crate) fn looked_up(&self) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.nodes).insert(id, Node { lookups: 1, ..Node::default() });
        id
    }

    /// The kernel takes look-ups back.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let mut nodes = lock(&self.nodes);
        if let Some(node) = nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 && node.open.is_empty() {
                nodes.remove(&id);
            }
        }
    }

    pub(crate) fn exists(&self, id: u64) -> bool {
        lock(&self.nodes).contains_key(&id)
    }

    /// An open begins. Gives the open file that this one will share its memory with.
    pub(crate) fn opening(&self, id: u64, handle: FileHandle) -> Option<Option<FileHandle>> {
        let mut nodes = lock(&self.nodes);
        let node = nodes.get_mut(&id)?;
        let sibling = node.open.first().copied();
        node.open.push(handle);
        Some(sibling)
    }

    /// The backing id for an open of this node: the one it has, or a new one for `memory`.
    pub(crate) fn back(&self, id: u64, memory: Option<Arc<OwnedFd>>) -> Result<Option<i32>, Errno> {
        let mut nodes = lock(&self.nodes);
        let node = nodes.get_mut(&id).ok_or(Errno::ESTALE)?;
        let Some(memory) = memory else {
            return Ok(node.backing.as_ref().map(|backing| backing.id));
        };
        if let Some(backing) = &node.backing {
            let same = same_file(&backing.memory, &memory)?;
            return if same { Ok(Some(backing.id)) } else { Err(Errno::EBUSY) };
        }
        if !self.passthrough {
            return Err(Errno::EOPNOTSUPP);
        }
        let backing = self.channel.with_fd(|fd| fd::backing_open(fd, &memory))?;
        node.backing = Some(Backing { id: backing, memory });
        Ok(Some(backing))
    }

    /// An open file of this node is released, or its open failed.
    pub(crate) fn closed(&self, id: u64, handle: FileHandle) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&id) else {
            return;
        };
        node.open.retain(|open| *open != handle);
        if !node.open.is_empty() {
            return;
        }
        let backing = node.backing.take();
        if node.lookups == 0 {
            nodes.remove(&id);
        }
        drop(nodes);
        if let Some(backing) = backing {
            // Fails only when the connection is gone, and the kernel's table with it.
            let _ = self.channel.with_fd(|fd| fd::backing_close(fd, backing.id));
        }
    }

    /// What `st_size` says: how much of the node can be mapped.
    pub(crate) fn size(&self, id: u64) -> u64 {
        let nodes = lock(&self.nodes);
        let backing = nodes.get(&id).and_then(|node| node.backing.as_ref());
        let stat = backing.and_then(|backing| rustix::fs::fstat(&backing.memory).ok());
        stat.map_or(0, |stat| stat.st_size.cast_unsigned())
    }

    /// Nodes the kernel knows, and how many of them have a backing.
    pub(crate) fn count(&self) -> (usize, usize) {
        let nodes = lock(&self.nodes);
        (nodes.len(), nodes.values().filter(|node| node.backing.is_some()).count())
    }

    /// The session has ended.
    pub(crate) fn clear(&self) {
        let nodes = std::mem::take(&mut *lock(&self.nodes));
        drop(nodes);
    }
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn nodes() -> Arc<Nodes> {
        let (daemon, _kernel) = testing::socket_pair();
        Nodes::new(Arc::new(Channel::new(daemon)), true)
    }

    #[test]
    fn each_look_up_is_a_node_until_it_is_forgotten() {
        let nodes = nodes();
        let (one, other) = (nodes.looked_up(), nodes.looked_up());
        assert_ne!(one, other);
        nodes.forget(one, 1);
        assert!(!nodes.exists(one));
        assert!(nodes.exists(other));
        nodes.forget(one, 1);
        nodes.forget(other, 7);
        assert_eq!(nodes.count(), (0, 0));
        assert_ne!(nodes.looked_up(), one, "ids are never used twice");
    }

    #[test]
    fn an_open_file_keeps_a_forgotten_node() {
        let nodes = nodes();
        let id = nodes.looked_up();
        assert_eq!(nodes.opening(id, FileHandle(5)), Some(None));
        assert_eq!(nodes.opening(id, FileHandle(6)), Some(Some(FileHandle(5))));
        nodes.forget(id, 1);
        nodes.closed(id, FileHandle(5));
        assert!(nodes.exists(id));
        assert_eq!(nodes.opening(id, FileHandle(7)), Some(Some(FileHandle(6))));
        nodes.closed(id, FileHandle(6));
        nodes.closed(id, FileHandle(7));
        assert!(!nodes.exists(id));
        assert_eq!(nodes.opening(id, FileHandle(8)), None);
    }

    #[test]
    fn the_kernels_refusal_of_a_backing_is_told() {
        // A socket stands for /dev/fuse: it knows no such ioctl.
        let nodes = nodes();
        let id = nodes.looked_up();
        nodes.opening(id, FileHandle(1));
        assert_eq!(nodes.back(id, Some(testing::memfd().into())), Err(Errno::ENOTTY));
        assert_eq!(nodes.count(), (1, 0));
        let (daemon, _kernel) = testing::socket_pair();
        let plain = Nodes::new(Arc::new(Channel::new(daemon)), false);
        let id = plain.looked_up();
        plain.opening(id, FileHandle(1));
        let refused = plain.back(id, Some(testing::memfd().into()));
        assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    }
}
