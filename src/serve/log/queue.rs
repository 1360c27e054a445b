//! Between those who log and standard error: a bounded queue, and one thread that may wait as long as it likes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that wait for standard error; a line more is lost.
const ROOM: usize = 1 << 20;

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost and not told of.
    lost: u64,
    /// A line is on its way.
    writing: bool,
    /// The last line could not be written: nobody reads any more, and nobody is told of lines lost.
    broken: bool,
    /// Somebody wants the thread to look for what there is to tell.
    woken: bool,
}

/// The queue. Its lock is held for moments only, never across a system call that writes.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    more: Condvar,
    written: Condvar,
}

/// What the log's formatter writes into: never fails, never waits.
pub struct Writer(Arc<Queue>);

impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    pub fn new() -> Queue {
        Queue::default()
    }

    pub fn writer(self: &Arc<Queue>) -> Writer {
        Writer(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes.saturating_add(line.len()) > ROOM {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.more.notify_one();
    }

    /// Makes the thread look whether there is something to tell.
    pub fn wake(&self) {
        self.state().woken = true;
        self.more.notify_one();
    }

    /// Waits until everything is written, but not for ever.
    pub fn wait_until_written(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state();
        while state.writing || !state.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes lines as they come, for ever. When all are written, `tell` is given the number of those lost since the last
    /// time; it may log, and says when it wants to be called again.
    pub fn write_all(&self, to: impl AsFd, tell: impl Fn(u64) -> Option<Duration>) {
        let mut again = None;
        loop {
            let mut state = self.state();
            while state.lines.is_empty() && (state.lost == 0 || state.broken) && !state.woken {
                match again {
                    None => state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(pause) => {
                        state = self.more.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
                        state.woken = true;
                    }
                }
            }
            match state.lines.pop_front() {
                Some(line) => {
                    state.bytes -= line.len();
                    state.writing = true;
                    drop(state);
                    let done = write(&to, &line);
                    let mut state = self.state();
                    state.writing = false;
                    state.broken = !done;
                    state.lost += u64::from(!done);
                    self.written.notify_all();
                }
                None => {
                    state.woken = false;
                    let lost = if state.broken { 0 } else { std::mem::take(&mut state.lost) };
                    drop(state);
                    again = tell(lost);
                }
            }
        }
    }
}

/// Writes a line whole, however long that takes. Whether it could.
fn write(to: &impl AsFd, mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match nix::unistd::write(to, line) {
            Ok(len) => line = line.get(len..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Whoever shares the open file has made it non-blocking.
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            // Nobody reads any more.
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;

    #[test]
    fn whoever_logs_never_waits_and_what_is_lost_is_told() {
        let queue = Arc::new(Queue::new());
        let (mut reader, writer) = io::pipe().unwrap();
        let (tell, told) = mpsc::channel();
        let thread = queue.clone();
        std::thread::spawn(move || {
            thread.write_all(writer, move |lost| {
                let _ = tell.send(lost);
                None
            })
        });
        // More than pipe and queue hold: without a reader.
        let line = [b'x'; 1024];
        for _ in 0..4096 {
            queue.writer().write_all(&line).unwrap();
        }
        let before = Instant::now();
        queue.wait_until_written(Duration::from_millis(50));
        assert!(before.elapsed() >= Duration::from_millis(50));
        let drain = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            let mut sum = 0;
            while let Ok(len) = reader.read(&mut buffer) {
                sum += len;
                if buffer[..len].ends_with(b"end") {
                    break;
                }
            }
            sum
        });
        let lost = told.recv().unwrap();
        assert!(lost > 2000, "{lost}");
        queue.writer().write_all(b"end").unwrap();
        assert_eq!(drain.join().unwrap(), (4096 - lost as usize) * 1024 + 3);
        queue.wait_until_written(Duration::from_secs(60));
    }
}
