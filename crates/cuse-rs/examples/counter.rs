//! A ring file whose memory is a counter: the daemon counts seconds, clients see it in their mapping
//! without a system call.
//!
//! Run as root, on Linux 6.9 or later:
//!
//! ```sh
//! mkdir -p /run/counter
//! cargo run --example counter -- /run/counter &
//! python3 -c '
//! import mmap, time
//! with open("/run/counter/seconds", "r+b") as file:
//!     memory = mmap.mmap(file.fileno(), 4096)
//!     for _ in range(3):
//!         print(int.from_bytes(memory[:8], "little"))
//!         time.sleep(1)
//! '
//! ```
//!
//! The file ends when the daemon's standard input does. Mappings stay valid after that.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cuse_rs::{
    Device, Errno, FileHandle, NodeKind, OpenReply, OpenRequest, Opening, PollFlags, PollNotifier, PollRequest,
    ReadReply, ReadRequest, RingFile,
};
use rustix::fs::{MemfdFlags, SealFlags};

const LEN: u64 = 4096;

#[derive(Default)]
struct Counter {
    files: Mutex<HashMap<FileHandle, Arc<File>>>,
}

struct File {
    memory: Arc<OwnedFd>,
    count: Mutex<u64>,
    seen: Mutex<u64>,
    notifier: PollNotifier,
}

impl Counter {
    fn tick(&self) {
        for file in self.files.lock().unwrap().values() {
            let mut count = file.count.lock().unwrap();
            *count += 1;
            // The memfd's pages are what clients have mapped.
            if let Err(error) = rustix::io::pwrite(&file.memory, &count.to_le_bytes(), 0) {
                eprintln!("writing a counter failed: {error}");
            }
            drop(count);
            file.notifier.notify();
        }
    }
}

/// Memory that a client can neither shrink under us nor grow.
fn memory() -> rustix::io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("counter", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, LEN)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

impl Device for Counter {
    type File = File;

    fn open(&self, request: &OpenRequest, reply: OpenReply<File>) {
        if request.node != NodeKind::Fuse || request.sibling.is_some() {
            // One open, one counter: nothing that is shared by opening a file twice.
            return reply.error(Errno::EBUSY);
        }
        let memory = match memory() {
            Ok(memory) => Arc::new(memory),
            Err(error) => return reply.error(Errno::new(error.raw_os_error())),
        };
        let mapped = memory.clone();
        let (count, seen) = (Mutex::new(0), Mutex::new(0));
        let file = Arc::new(File { memory, count, seen, notifier: reply.notifier() });
        let handle = request.handle;
        self.files.lock().unwrap().insert(handle, file.clone());
        if reply.opened_with(file, Opening::new().backing(mapped)).is_err() {
            self.files.lock().unwrap().remove(&handle);
        }
    }

    fn release(&self, handle: FileHandle, _: Arc<File>) {
        self.files.lock().unwrap().remove(&handle);
    }

    /// The count as text, for those who have no `mmap`; then the end, so that `cat` ends.
    fn read(&self, request: &ReadRequest, file: &Arc<File>, reply: ReadReply) {
        if request.offset > 0 {
            let _ = reply.data(b"");
            return;
        }
        let count = *file.count.lock().unwrap();
        *file.seen.lock().unwrap() = count;
        let text = format!("{count}\n");
        let len = text.len().min(request.size as usize);
        let _ = reply.data(&text.as_bytes()[..len]);
    }

    /// Readable when it has counted since the last read.
    fn poll(&self, _: &PollRequest, file: &Arc<File>) -> PollFlags {
        let count = *file.count.lock().unwrap();
        if count == *file.seen.lock().unwrap() { PollFlags::empty() } else { PollFlags::IN }
    }
}

fn main() {
    if let Err(error) = serve() {
        eprintln!("counter: {error}");
        std::process::exit(1);
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "/run/counter".into());
    let counter = Arc::new(Counter::default());
    let session = RingFile::new(&directory, "seconds").mode(0o666).mount(counter.clone())?;
    let stop = session.stop_token();
    let serving = session.spawn(2)?;
    println!("{directory}/seconds is there; end of input takes it away");
    let clock = thread::spawn(move || {
        while !stop.is_stopped() {
            thread::sleep(Duration::from_secs(1));
            counter.tick();
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    serving.stop()?;
    clock.join().map_err(|_| "the clock panicked")?;
    Ok(())
}
