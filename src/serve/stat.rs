//! What the daemon tells of itself: a snapshot as JSON, for whoever connects to the control socket.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cuse_rs::NodeKind;
use serde::{Deserialize, Serialize};

use super::device::Netlink;
use super::file::File;

/// A client that connects and does not read gets no more than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The daemon at one moment.
#[derive(Debug, Deserialize, Serialize)]
pub struct Snapshot {
    pub name: String,
    pub pid: u32,
    pub opens: u32,
    pub ring_bytes: u64,
    pub endpoints: Vec<Entry>,
}

/// Shape and position of a ring.
#[derive(Debug, Deserialize, Serialize)]
pub struct Ring {
    pub block_size: u32,
    pub blocks: u32,
    pub frame_size: u32,
    pub frames: u32,
    pub head: u32,
}

/// One open file.
#[derive(Debug, Deserialize, Serialize)]
pub struct Entry {
    pub handle: u64,
    pub node: String,
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    pub age_seconds: u64,
    /// `NETLINK_*` number; none before the client has made its socket.
    pub family: Option<u32>,
    pub rx: Option<Ring>,
    pub tx: Option<Ring>,
    /// RX frames filled and not known to be released.
    pub occupied: u32,
    pub rx_frames: u64,
    pub rx_datagrams: u64,
    pub rx_copies: u64,
    pub copies_waiting: u32,
    pub overruns: u64,
    pub tx_frames: u64,
    pub system_calls: u64,
}

fn entry(file: &File) -> Entry {
    let control = file.control();
    let [rx, tx] = file.geometry();
    let count = |word: fn(&nlmmap_ring::control::Counters) -> &AtomicU64| {
        control.map_or(0, |control| word(&control.counters).load(Ordering::Relaxed))
    };
    let ring = |request: nlmmap_ring::abi::nl_mmap_req, head: u32| Ring {
        block_size: request.nm_block_size,
        blocks: request.nm_block_nr,
        frame_size: request.nm_frame_size,
        frames: request.nm_frame_nr,
        head,
    };
    let head = |rx: bool| {
        control.map_or(0, |control| if rx { &control.rx_head } else { &control.tx_head }.load(Ordering::Relaxed))
    };
    Entry {
        handle: file.handle,
        node: if file.node == NodeKind::Fuse { "fuse" } else { "cuse" }.into(),
        pid: file.client.pid,
        uid: file.client.uid,
        command: file.client.command.clone(),
        age_seconds: file.opened.elapsed().as_secs(),
        family: file.socket().map(|socket| socket.family),
        rx: rx.map(|request| ring(request, head(true))),
        tx: tx.map(|request| ring(request, head(false))),
        occupied: file.occupancy(),
        rx_frames: count(|c| &c.rx_frames),
        rx_datagrams: count(|c| &c.rx_datagrams),
        rx_copies: count(|c| &c.rx_copies),
        copies_waiting: control.map_or(0, |control| control.copies.load(Ordering::Relaxed)),
        overruns: count(|c| &c.overruns),
        tx_frames: count(|c| &c.tx_frames),
        system_calls: count(|c| &c.calls),
    }
}

fn snapshot(name: &str, device: &Netlink) -> Snapshot {
    let held = device.ledger.held();
    let mut endpoints: Vec<Entry> = device.pool.files().iter().map(|file| entry(file)).collect();
    endpoints.sort_by_key(|entry| entry.handle);
    Snapshot { name: name.into(), pid: std::process::id(), opens: held.opens, ring_bytes: held.ring_bytes, endpoints }
}

/// The control socket. Dropped, it is gone.
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, which nobody else serves: the caller holds the daemon's lock, so what lies there is stale.
    pub fn start(path: &Path, name: &str, device: Arc<Netlink>) -> io::Result<Server> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (stop.clone(), name.to_owned());
        let thread = thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                match stream.and_then(|stream| answer(stream, &name, &device)) {
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "control socket"),
                }
            }
        })?;
        Ok(Server { path: path.into(), stop, thread: Some(thread) })
    }
}

fn answer(mut stream: UnixStream, name: &str, device: &Netlink) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(&snapshot(name, device))?;
    text.push(b'\n');
    stream.write_all(&text)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread, so that it sees that.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _ = fs::remove_file(&self.path);
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Asks the daemon behind a control socket.
pub fn ask(path: &Path) -> io::Result<Snapshot> {
    let mut text = Vec::new();
    UnixStream::connect(path)?.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
