//! A character device that gives back what is written to it, message by message.
//!
//! Run as root, with the module `cuse` loaded:
//!
//! ```sh
//! modprobe cuse
//! cargo run --example echo -- echo &
//! exec 3<>/dev/echo
//! echo hello >&3         # a message goes in
//! dd bs=4096 count=1 <&3 # one message comes out; without one, the read waits
//! ```
//!
//! The device ends when its standard input does; killed, it vanishes too.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Arc, Mutex};

use cuse_rs::{
    Cuse, Device, Errno, OpenReply, OpenRequest, Parked, PollFlags, PollNotifier, PollRequest, ReadReply, ReadRequest,
    WriteReply, WriteRequest,
};

/// Messages that one open file may hold.
const LIMIT: usize = 64;
const O_NONBLOCK: i32 = 0o4000;

struct Echo;

/// Each open file has messages of its own.
struct File {
    notifier: PollNotifier,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    readers: VecDeque<(Parked<ReadReply>, usize)>,
}

impl Queue {
    /// Hands messages to readers that wait, the oldest to the first.
    fn hand_out(&mut self) {
        while !self.messages.is_empty() {
            let Some((parked, size)) = self.readers.pop_front() else { return };
            // An interrupt may have taken it.
            let Some(reply) = parked.take() else { continue };
            let Some(message) = self.messages.pop_front() else { return };
            let len = message.len().min(size);
            if reply.data(&message[..len]).is_err() {
                // The reader is gone; the message is the next one's.
                self.messages.push_front(message);
            }
        }
    }
}

impl Device for Echo {
    type File = File;

    fn open(&self, request: &OpenRequest, reply: OpenReply<File>) {
        println!("{:?}: opened by thread {}", request.handle, request.caller.tid);
        let file = File { notifier: reply.notifier(), queue: Mutex::default() };
        // An error means that the caller died meanwhile: there is nobody to serve.
        let _ = reply.opened(file);
    }

    fn read(&self, request: &ReadRequest, file: &Arc<File>, reply: ReadReply) {
        let mut queue = file.queue.lock().unwrap();
        if queue.messages.is_empty() && request.flags & O_NONBLOCK != 0 {
            return reply.error(Errno::EAGAIN);
        }
        queue.readers.push_back((reply.park(), request.size as usize));
        queue.hand_out();
    }

    fn write(&self, request: &WriteRequest<'_>, file: &Arc<File>, reply: WriteReply) {
        let mut queue = file.queue.lock().unwrap();
        if queue.messages.len() >= LIMIT {
            return reply.error(Errno::ENOBUFS);
        }
        queue.messages.push_back(request.data.to_vec());
        queue.hand_out();
        drop(queue);
        // After the change, so that whoever polls sees it.
        file.notifier.notify();
        let _ = reply.all_written();
    }

    fn poll(&self, _: &PollRequest, file: &Arc<File>) -> PollFlags {
        let queue = file.queue.lock().unwrap();
        let mut ready = PollFlags::empty();
        if !queue.messages.is_empty() {
            ready |= PollFlags::IN | PollFlags::RDNORM;
        }
        if queue.messages.len() < LIMIT {
            ready |= PollFlags::OUT | PollFlags::WRNORM;
        }
        ready
    }
}

fn main() {
    if let Err(error) = serve() {
        eprintln!("echo: {error}");
        std::process::exit(1);
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "echo".into());
    let serving = Cuse::new(name.as_str()).mode(0o666).create(Arc::new(Echo))?.spawn(2)?;
    println!("/dev/{name} is there; end of input takes it away");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    serving.stop()?;
    Ok(())
}
