//! The device as clients see it: what each of their system calls does.

use std::sync::Arc;

use cuse_rs::{
    Device, Errno, FileHandle, IoctlReply, IoctlRequest, NodeKind, OpenReply, OpenRequest, Opening, PollReply,
    PollRequest, ReadReply, ReadRequest, WriteReply, WriteRequest,
};
use nlmmap_ring::endpoint::Which;

use super::abi::{self, Words};
use super::caller::Client;
use super::file::File;
use super::files::Files;
use super::grants::Grants;
use super::limits::Ledger;
use super::workers::Workers;
use super::{log, memory};

/// The device: everything its open files share.
pub struct Netlink {
    pub workers: Arc<Workers>,
    pub files: Arc<Files>,
    pub ledger: Arc<Ledger>,
    pub grants: Arc<Grants>,
    /// Longer writes may have been cut by the kernel.
    pub max_write: usize,
}

fn input<T: Words>(request: &IoctlRequest<'_>) -> Result<T, Errno> {
    abi::read(request.data).ok_or(Errno::EINVAL)
}

impl Netlink {
    fn opened(&self, request: &OpenRequest, reply: &OpenReply<File>) -> Result<(File, Opening), Errno> {
        if request.sibling.is_some() {
            // The same file again, by way of /proc/PID/fd or a bind mount: it would share the other's rings.
            return Err(Errno::EBUSY);
        }
        let client = Client::new(&request.caller).map_err(|(errno, why)| {
            log::refused_open(&request.caller, &why);
            errno
        })?;
        let ticket = self.ledger.open(client.uid).map_err(|limit| {
            log::refused(&client, format_args!("one open more exceeds {limit}"));
            limit.errno()
        })?;
        let rings = memory::new().map_err(|error| {
            log::refused(&client, format_args!("no memory object: {error}"));
            memory::errno(error)
        })?;
        let rings = Arc::new(rings);
        let opening = match request.node {
            NodeKind::Fuse => Opening::new().backing(rings.clone()),
            NodeKind::Cuse => Opening::new(),
        };
        let handle = request.handle.get();
        let police = self.grants.police(&request.caller);
        Ok((File::new(handle, request.node, client, reply.notifier(), rings, ticket, police), opening))
    }

    /// Gives the reply back with an error for what is not an ioctl of ours, or has no proper argument.
    fn ioctl_on(
        &self,
        request: &IoctlRequest<'_>,
        file: &Arc<File>,
        reply: IoctlReply,
    ) -> Result<(), (IoctlReply, Errno)> {
        let (caller, cmd, data) = (&request.caller, request.cmd, request.data);
        macro_rules! argument {
            () => {
                match input(request) {
                    Ok(argument) => argument,
                    Err(errno) => return Err((reply, errno)),
                }
            };
        }
        match cmd {
            abi::VERSION => {
                let (node, map) = match file.node {
                    NodeKind::Fuse => (abi::NODE_FUSE, abi::F_MAP_NODE),
                    NodeKind::Cuse => (abi::NODE_CUSE, abi::F_MAP_MEMORY),
                };
                let version = abi::Version { abi: abi::ABI, node, features: map | abi::F_SOCKET_CALLS };
                // Undeliverable: then nobody waits for it.
                let _ = reply.done(0, abi::bytes(&version));
            }
            abi::SOCKET => file.make_socket(caller, argument!(), reply),
            abi::RX_RING => file.set_ring(caller, Which::Rx, argument!(), reply),
            abi::TX_RING => file.set_ring(caller, Which::Tx, argument!(), reply),
            abi::MAP_INFO => file.map_info(reply),
            abi::MEMORY => file.use_memory(caller, argument!(), reply),
            abi::KICK | abi::KICK_AS => file.kick(caller, data, reply),
            abi::MAPPED => {
                let wanted: abi::Mapped = argument!();
                match file.note_mapped(caller, wanted.mapped != 0) {
                    Ok(answer) => drop(reply.done(0, abi::bytes(&answer))),
                    Err(errno) => return Err((reply, errno)),
                }
            }
            abi::BIND | abi::CONNECT | abi::ADD_MEMBERSHIP | abi::DROP_MEMBERSHIP | abi::SETSOCKOPT => {
                file.change(caller, cmd, data, reply);
            }
            _ if abi::only_asks(cmd) => file.query(cmd, data, reply),
            _ => match abi::unsized_number(cmd) {
                abi::SEND => file.send(caller, data, reply),
                abi::SETOPT => file.change(caller, cmd, data, reply),
                _ => return Err((reply, Errno::ENOTTY)),
            },
        }
        Ok(())
    }
}

impl Device for Netlink {
    type File = File;

    fn open(&self, request: &OpenRequest, reply: OpenReply<File>) {
        let (file, opening) = match self.opened(request, &reply) {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let file = Arc::new(file);
        // Before the answer: the client's next call may come before this one has returned.
        self.files.add(&file);
        tracing::debug!(
            handle = file.handle,
            pid = file.client.pid,
            uid = file.client.uid,
            command = file.client.command,
            "open"
        );
        if let Err(error) = reply.opened_with(file.clone(), opening) {
            tracing::debug!(handle = file.handle, %error, "the client did not get its open file");
            self.files.remove(&file);
            file.close();
        }
    }

    fn release(&self, handle: FileHandle, file: Arc<File>) {
        tracing::debug!(handle = handle.get(), pid = file.client.pid, "closed");
        self.files.remove(&file);
        file.close();
    }

    fn read(&self, request: &ReadRequest, file: &Arc<File>, reply: ReadReply) {
        let wait = request.flags & libc::O_NONBLOCK == 0;
        file.read(reply, request.size as usize, wait);
    }

    fn write(&self, request: &WriteRequest<'_>, file: &Arc<File>, reply: WriteReply) {
        if request.data.len() > self.max_write {
            return reply.error(Errno::EMSGSIZE);
        }
        file.write(&request.caller, request.data, reply);
    }

    fn ioctl(&self, request: &IoctlRequest<'_>, file: &Arc<File>, reply: IoctlReply) {
        if let Err((reply, errno)) = self.ioctl_on(request, file, reply) {
            reply.error(errno);
        }
    }

    fn poll_later(&self, request: &PollRequest, file: &Arc<File>, reply: PollReply) {
        file.poll(request.notify, reply);
    }
}
