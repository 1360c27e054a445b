//! The device as clients see it: what each of their system calls does.

use std::sync::Arc;

use cuse_rs::{
    Device, Errno, FileHandle, IoctlReply, IoctlRequest, NodeKind, OpenReply, OpenRequest, Opening, PollFlags,
    PollRequest, ReadReply, ReadRequest, WriteReply, WriteRequest,
};
use nlmmap_ring::endpoint::Which;

use super::abi::{self, Words};
use super::caller::Client;
use super::file::File;
use super::limits::Ledger;
use super::pool::Pool;
use super::{log, memory};

/// The device: everything its open files share.
pub struct Netlink {
    pub pool: Arc<Pool>,
    pub ledger: Arc<Ledger>,
    /// Longer writes may have been cut by the kernel.
    pub max_write: usize,
}

/// What an ioctl answers: bytes for its argument.
type Answer = Result<Vec<u8>, Errno>;

fn input<T: Words>(request: &IoctlRequest<'_>) -> Result<T, Errno> {
    abi::read(request.data).ok_or(Errno::EINVAL)
}

fn output<T: Words>(value: &T) -> Answer {
    Ok(abi::bytes(value).to_vec())
}

fn nothing(done: Result<(), Errno>) -> Answer {
    done.map(|()| Vec::new())
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
        let opening = match request.node {
            NodeKind::Fuse => Opening::new().backing(rings.try_clone()?),
            NodeKind::Cuse => Opening::new(),
        };
        let handle = request.handle.get();
        Ok((File::new(handle, request.node, client, reply.notifier(), rings, ticket), opening))
    }

    fn ioctl_answer(&self, request: &IoctlRequest<'_>, file: &File) -> Answer {
        let caller = &request.caller;
        match request.cmd {
            abi::VERSION => output(&match file.node {
                NodeKind::Fuse => abi::Version {
                    abi: abi::ABI,
                    node: abi::NODE_FUSE,
                    features: abi::F_MAP_NODE | abi::F_SOCKET_CALLS,
                },
                NodeKind::Cuse => abi::Version {
                    abi: abi::ABI,
                    node: abi::NODE_CUSE,
                    features: abi::F_MAP_MEMORY | abi::F_SOCKET_CALLS,
                },
            }),
            abi::SOCKET => nothing(file.make_socket(caller, &self.pool, &input(request)?)),
            abi::BIND => nothing(file.bind(caller, &input(request)?)),
            abi::CONNECT => nothing(file.connect(caller, &input(request)?)),
            abi::GETSOCKNAME => output(&file.name()?),
            abi::ADD_MEMBERSHIP => nothing(file.membership(caller, true, input(request)?)),
            abi::DROP_MEMBERSHIP => nothing(file.membership(caller, false, input(request)?)),
            abi::SETSOCKOPT => nothing(file.set_option(caller, &input(request)?)),
            abi::GETSOCKOPT => {
                let option: abi::SockOpt = input(request)?;
                output(&abi::SockOpt { value: file.option(&option)?, ..option })
            }
            abi::RX_RING => nothing(file.set_ring(caller, Which::Rx, &input(request)?)),
            abi::TX_RING => nothing(file.set_ring(caller, Which::Tx, &input(request)?)),
            abi::MAP_INFO => output(&file.map_info()?),
            abi::MEMORY => nothing(file.use_memory(caller, input(request)?)),
            abi::KICK => {
                let mut kick = input(request)?;
                file.kick(caller, &self.pool, &mut kick)?;
                output(&kick)
            }
            abi::GET_ERROR => output(&file.take_error()?),
            abi::GETPEERNAME => output(&file.peer()?),
            abi::MAPPED => {
                let wanted: abi::Mapped = input(request)?;
                output(&file.note_mapped(caller, wanted.mapped != 0)?)
            }
            abi::STATE => output(&file.state()?),
            number => self.socket_call(number, request, file),
        }
    }

    /// Calls whose arguments have any size.
    fn socket_call(&self, number: u32, request: &IoctlRequest<'_>, file: &File) -> Answer {
        let (caller, size) = (&request.caller, abi::argument_size(number));
        match abi::unsized_number(number) {
            abi::RECV => file.receive_message(&self.pool, size, false),
            abi::PEEK => file.receive_message(&self.pool, size, true),
            abi::PART => {
                let (part, _) = abi::split(request.data).ok_or(Errno::EINVAL)?;
                file.receive_part(&self.pool, &part, size)
            }
            abi::SEND => {
                let (head, data) = abi::split(request.data).ok_or(Errno::EINVAL)?;
                nothing(file.send_to(caller, &self.pool, &head, data))
            }
            abi::SETOPT => {
                let (head, value) = abi::split(request.data).ok_or(Errno::EINVAL)?;
                nothing(file.set_any_option(caller, &head, value))
            }
            abi::GETOPT => {
                let (head, _) = abi::split(request.data).ok_or(Errno::EINVAL)?;
                file.any_option(&head, size)
            }
            _ => Err(Errno::ENOTTY),
        }
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
        self.pool.add(&file);
        tracing::debug!(
            handle = file.handle,
            pid = file.client.pid,
            uid = file.client.uid,
            command = file.client.command,
            "open"
        );
        if let Err(error) = reply.opened_with(file.clone(), opening) {
            tracing::debug!(handle = file.handle, %error, "the client did not get its open file");
            self.pool.remove(&file);
            file.close();
        }
    }

    fn release(&self, handle: FileHandle, file: Arc<File>) {
        tracing::debug!(handle = handle.get(), pid = file.client.pid, "closed");
        self.pool.remove(&file);
        file.close();
    }

    fn read(&self, request: &ReadRequest, file: &Arc<File>, reply: ReadReply) {
        let wait = request.flags & libc::O_NONBLOCK == 0;
        file.read(&self.pool, reply, request.size as usize, wait);
    }

    fn write(&self, request: &WriteRequest<'_>, file: &Arc<File>, reply: WriteReply) {
        if request.data.len() > self.max_write {
            return reply.error(Errno::EMSGSIZE);
        }
        match file.write(&request.caller, &self.pool, request.data) {
            Ok(_) => {
                let _ = reply.all_written();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(&self, request: &IoctlRequest<'_>, file: &Arc<File>, reply: IoctlReply) {
        match self.ioctl_answer(request, file) {
            Ok(answer) => {
                let _ = reply.done(0, &answer);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn poll(&self, _: &PollRequest, file: &Arc<File>) -> PollFlags {
        file.ready(&self.pool)
    }
}
