//! What both kinds of node must do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::client::{self, errno, ioctl, ioctl_with};
use super::device::Echo;
use super::{PATIENCE, eventually, start};

/// Runs them all; the device is idle before and after.
pub fn all(node: &Path, device: &Arc<Echo>) {
    // A test that hangs tells by its output where.
    macro_rules! run {
        ($($name:ident($($arg:expr),*);)*) => {$(
            eprintln!("  {}", stringify!($name));
            $name($($arg),*);
        )*};
    }
    run! {
        messages_come_back_in_order(node);
        nothing_to_read(node);
        every_shape_of_ioctl(node);
        the_caller_is_named(node);
        opens_that_fail(node, device);
        open_answered_later(node, device);
        poll_sees_what_is_there(node);
        poll_wakes(node, 1000);
        epoll_wakes(node, EpollFlags::empty(), 2000);
        epoll_wakes(node, EpollFlags::EPOLLET, 3000);
        epoll_wakes(node, EpollFlags::EPOLLONESHOT, 500);
        every_waiter_wakes(node);
        a_signal_interrupts(node, device);
        signals_from_everywhere(node);
        a_hook_hears_of_the_signal(node);
        a_killed_client_is_released(node, device);
        duplicates_share_one_open_file(node, device);
        many_clients_at_once(node, device);
    }
    eventually("every open file is released", || device.live() == 0);
}

fn messages_come_back_in_order(node: &Path) {
    let mut file = client::open(node);
    let long = vec![7u8; 64 * 1024];
    for message in [&b"one"[..], b"", b"three", &long] {
        // An empty write does not reach the device; the kernel answers it.
        assert_eq!(file.write(message).unwrap(), message.len());
    }
    let mut buffer = vec![0; 128 * 1024];
    for message in [&b"one"[..], b"three", &long] {
        let len = file.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], message);
    }
}

fn nothing_to_read(node: &Path) {
    let mut file = client::try_open(node, libc::O_NONBLOCK).unwrap();
    assert_eq!(errno(file.read(&mut [0; 8])), libc::EAGAIN);
    // A read that waits does not stop a write on the same file. Of files with memory only `pwrite`,
    // for they have a lock on their position; streams have none, and no `pwrite`.
    let file = client::open(node);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = [0; 8];
            let len = (&file).read(&mut buffer).unwrap();
            buffer[..len].to_vec()
        });
        // Whichever comes first, the reader gets the message.
        let written = match file.write_at(b"late", 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => (&file).write(b"late"),
            other => other,
        };
        assert_eq!(written.unwrap(), 4);
        assert_eq!(reader.join().unwrap(), b"late");
    });
}

fn every_shape_of_ioctl(node: &Path) {
    let file = client::open(node);
    let mut value = u64::MAX - 1;
    assert_eq!(ioctl_with(&file, client::ADD_ONE, &mut value).unwrap(), 5);
    assert_eq!(value, u64::MAX);
    let mut big = [0u8; client::BIG];
    big[0] = 9;
    assert_eq!(ioctl_with(&file, client::REVERSE, &mut big).unwrap(), 0);
    assert_eq!((big[0], big[client::BIG - 1]), (0, 9));
    assert_eq!(ioctl(&file, client::RESULT, 65535).unwrap(), 65535);
    assert_eq!(errno(ioctl(&file, client::FAIL, libc::EBUSY as u64)), libc::EBUSY);
    assert_eq!(errno(ioctl(&file, client::FAIL, 4096)), libc::EIO);
    assert_eq!(errno(ioctl(&file, client::FAIL, libc::ENOSYS as u64)), libc::EOPNOTSUPP);
    assert_eq!(errno(ioctl(&file, client::DROP, 0)), libc::EIO);
    assert_eq!(errno(ioctl_with(&file, client::TOO_LONG, &mut 0u32)), libc::EIO);
    assert_eq!(errno(ioctl(&file, client::UNKNOWN, 0)), libc::ENOTTY);
    assert_eq!(ioctl(&file, client::RESULT, 1).unwrap(), 1, "still in step after all that");
}

fn the_caller_is_named(node: &Path) {
    let file = client::open(node);
    let mut caller = [0u32; 3];
    ioctl_with(&file, client::CALLER, &mut caller).unwrap();
    let tid = nix::unistd::gettid().as_raw() as u32;
    assert_eq!(caller, [tid, 0, 0]);
}

fn opens_that_fail(node: &Path, device: &Arc<Echo>) {
    for (next, wanted) in [(libc::EBUSY, libc::EBUSY), (libc::ENOSYS, libc::EOPNOTSUPP), (-1, libc::EIO)] {
        *device.next_open.lock().unwrap() = next;
        assert_eq!(errno(client::try_open(node, 0)), wanted);
    }
    drop(client::open(node));
}

fn open_answered_later(node: &Path, device: &Arc<Echo>) {
    *device.next_open.lock().unwrap() = -2;
    thread::scope(|scope| {
        let client = scope.spawn(|| client::open(node));
        eventually("the open arrives", || device.waiting_open.lock().unwrap().is_some());
        let (reply, file) = device.waiting_open.lock().unwrap().take().unwrap();
        assert!(!reply.is_interrupted());
        device.opened.fetch_add(1, Ordering::SeqCst);
        reply.opened(file).unwrap();
        let file = client.join().unwrap();
        assert_eq!(ioctl(&file, client::RESULT, 3).unwrap(), 3);
    });
}

fn ready(file: &File, timeout: PollTimeout) -> PollFlags {
    let flags = PollFlags::POLLIN | PollFlags::POLLOUT;
    let mut fds = [PollFd::new(file.as_fd(), flags)];
    poll(&mut fds, timeout).unwrap();
    fds[0].revents().unwrap()
}

fn poll_sees_what_is_there(node: &Path) {
    let mut file = client::open(node);
    assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::POLLOUT);
    file.write_all(b"x").unwrap();
    assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::POLLIN | PollFlags::POLLOUT);
    file.read_exact(&mut [0]).unwrap();
    assert_eq!(ready(&file, PollTimeout::ZERO), PollFlags::POLLOUT);
}

/// One thread waits and reads, the other writes, in step: a lost wake-up is a hang.
fn poll_wakes(node: &Path, rounds: u64) {
    let file = client::open(node);
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let mut reader = &file;
        scope.spawn(move || {
            for round in 1..=rounds {
                let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                let count = poll(&mut fds, PollTimeout::from(60_000u16)).unwrap();
                assert_eq!(count, 1, "wake-up {round} of poll was lost");
                let mut word = [0; 8];
                reader.read_exact(&mut word).unwrap();
                assert_eq!(u64::from_ne_bytes(word), round);
                tell.send(round).unwrap();
            }
        });
        for round in 1..=rounds {
            (&file).write_all(&round.to_ne_bytes()).unwrap();
            assert_eq!(told.recv().unwrap(), round);
        }
    });
}

/// The reader drains after each wake-up; the writer goes on as soon as its message is read.
fn epoll_wakes(node: &Path, trigger: EpollFlags, rounds: u64) {
    let file = client::try_open(node, libc::O_NONBLOCK).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let event = EpollEvent::new(EpollFlags::EPOLLIN | trigger, 1);
    epoll.add(&file, event).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let (mut reader, epoll) = (&file, &epoll);
        scope.spawn(move || {
            let mut last = 0;
            while last < rounds {
                let mut events = [EpollEvent::empty()];
                let count = epoll.wait(&mut events, EpollTimeout::from(60_000u16)).unwrap();
                assert_eq!(count, 1, "the wake-up after message {last} was lost");
                let mut word = [0; 8];
                while reader.read(&mut word).is_ok_and(|len| len == 8) {
                    last = u64::from_ne_bytes(word);
                    tell.send(last).unwrap();
                }
                if trigger == EpollFlags::EPOLLONESHOT {
                    epoll.modify(reader, &mut event.clone()).unwrap();
                }
            }
        });
        for round in 1..=rounds {
            (&file).write_all(&round.to_ne_bytes()).unwrap();
            assert_eq!(told.recv().unwrap(), round);
        }
    });
}

/// One message wakes all who poll.
fn every_waiter_wakes(node: &Path) {
    let file = client::open(node);
    for _ in 0..50 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                    assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)).unwrap(), 1);
                });
            }
            assert_eq!(file.write_at(b"x", 0).or_else(|_| (&file).write(b"x")).unwrap(), 1);
        });
        (&file).read_exact(&mut [0]).unwrap();
    }
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Sends SIGUSR1, without restart of system calls, to a thread until it has ended.
fn interrupt<T>(thread: &thread::ScopedJoinHandle<'_, T>, pthread: libc::pthread_t) {
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(std::time::Instant::now() < end, "the interrupted call never returned");
        nix::sys::pthread::pthread_kill(pthread as _, Signal::SIGUSR1).unwrap();
        thread::sleep(std::time::Duration::from_micros(200));
    }
}

fn a_signal_interrupts(node: &Path, device: &Arc<Echo>) {
    let file = client::open(node);
    thread::scope(|scope| {
        for call in [(|file: &File| ioctl(file, client::SLEEP, 0).map(|_| ())) as fn(&File) -> _, |mut file: &File| {
            file.read_exact_once()
        }] {
            let (tell, told) = std::sync::mpsc::channel();
            let caller = scope.spawn({
                let file = &file;
                move || {
                    tell.send(nix::sys::pthread::pthread_self()).unwrap();
                    call(file)
                }
            });
            let pthread = told.recv().unwrap();
            interrupt(&caller, pthread);
            assert_eq!(errno(caller.join().unwrap()), libc::EINTR);
        }
    });
    // The file still works, and nothing waits in the device.
    assert_eq!(ioctl(&file, client::RESULT, 2).unwrap(), 2);
    let _ = device;
}

/// Interrupts overtake their requests when several threads read: none may be lost.
fn signals_from_everywhere(node: &Path) {
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (tell, told) = std::sync::mpsc::channel();
                let caller = scope.spawn(move || {
                    let file = client::open(node);
                    tell.send(nix::sys::pthread::pthread_self()).unwrap();
                    for _ in 0..100 {
                        assert_eq!(errno(ioctl(&file, client::SLEEP, 0)), libc::EINTR);
                    }
                });
                (caller, told.recv().unwrap())
            })
            .collect();
        thread::scope(|pokers| {
            for (caller, pthread) in &callers {
                pokers.spawn(|| interrupt(caller, *pthread));
            }
        });
    });
}

/// `Read::read` without std's restart after EINTR.
trait ReadOnce {
    fn read_exact_once(&mut self) -> std::io::Result<()>;
}

impl ReadOnce for &File {
    fn read_exact_once(&mut self) -> std::io::Result<()> {
        nix::unistd::read(self.as_fd(), &mut [0; 8]).map(|_| ()).map_err(Into::into)
    }
}

fn a_hook_hears_of_the_signal(node: &Path) {
    let file = client::open(node);
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let caller = scope.spawn({
            let file = &file;
            move || {
                tell.send(nix::sys::pthread::pthread_self()).unwrap();
                ioctl(file, client::ON_INTERRUPT, 0)
            }
        });
        let pthread = told.recv().unwrap();
        let mut buffer = [0; 32];
        let len = (&file).read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"waiting");
        interrupt(&caller, pthread);
        assert_eq!(errno(caller.join().unwrap()), libc::EINTR);
        let len = (&file).read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"interrupted");
    });
}

fn a_killed_client_is_released(node: &Path, device: &Arc<Echo>) {
    for role in ["sleep", "read", "open"] {
        // Ring files are released after `close` has returned.
        eventually("idle", || device.live() == 0);
        let before = device.opened.load(Ordering::SeqCst);
        if role == "open" {
            *device.next_open.lock().unwrap() = -2;
        }
        let mut child = start(role, node);
        if role == "open" {
            eventually("the open arrives", || device.waiting_open.lock().unwrap().is_some());
        } else {
            eventually("the child has it open", || device.live() == 1);
        }
        child.kill().unwrap();
        if role == "open" {
            // The kernel holds the dying caller until its open is answered.
            let (reply, file) = device.waiting_open.lock().unwrap().take().unwrap();
            eventually("the interrupt arrives", || reply.is_interrupted());
            reply.error(cuse_rs::Errno::EINTR);
            drop(file);
        }
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        let opens = usize::from(role != "open");
        assert_eq!(device.opened.load(Ordering::SeqCst), before + opens);
        eventually("the dead client's file is released", || device.live() == 0);
    }
}

/// What child processes do.
pub fn child(role: &str, node: &Path) {
    match role {
        "open" => drop(client::open(node)),
        "sleep" => {
            let file = client::open(node);
            let _ = ioctl(&file, client::SLEEP, 0);
        }
        "read" => {
            let _ = client::open(node).read(&mut [0; 8]);
        }
        _ => panic!("no such role: {role}"),
    }
}

fn duplicates_share_one_open_file(node: &Path, device: &Arc<Echo>) {
    eventually("idle", || device.live() == 0);
    let mut file = client::open(node);
    let copies: Vec<File> = (0..8).map(|_| file.try_clone().unwrap()).collect();
    assert_eq!(device.live(), 1);
    file.write_all(b"shared").unwrap();
    drop(file);
    let mut buffer = [0; 6];
    (&copies[7]).read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"shared");
    drop(copies);
    eventually("released once", || device.live() == 0);
}

fn many_clients_at_once(node: &Path, device: &Arc<Echo>) {
    let before = device.opened.load(Ordering::SeqCst);
    thread::scope(|scope| {
        for number in 0..8u64 {
            scope.spawn(move || {
                for round in 0..25 {
                    let mut file = client::open(node);
                    let message = (number << 32 | round).to_ne_bytes();
                    file.write_all(&message).unwrap();
                    let mut back = [0; 8];
                    file.read_exact(&mut back).unwrap();
                    assert_eq!(back, message, "each open has its own messages");
                    let mut value = round;
                    ioctl_with(&file, client::ADD_ONE, &mut value).unwrap();
                    assert_eq!(value, round + 1);
                }
            });
        }
    });
    assert_eq!(device.opened.load(Ordering::SeqCst), before + 200);
}
