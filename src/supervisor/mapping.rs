//! Mappings. The thread that is to map has to come to its turns for that, and the supervisor waits for it: some tens of microseconds.
//! Where the last has taken long, the next ones are each made by a process of its own, which is slower, and nobody else waits.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::unistd::{ForkResult, Pid, fork};
use nlmmap_ring::sys;

use super::engine::{HELPER, Supervisor};
use super::inject::{self, Mapped};
use super::notify::{Call, Outcome};
use super::{again, descriptors};

/// A mapping that takes longer than this says that the machine is too busy to wait for one.
const LONG: Duration = Duration::from_millis(10);
/// For how long that is believed.
const BUSY: Duration = Duration::from_secs(2);

/// A mapping under way.
pub struct Mapping {
    /// Of the process that makes it.
    _pidfd: OwnedFd,
    call: Call,
}

impl Supervisor {
    /// `mmap`. `None`: it is answered beside everything else.
    pub(super) fn map(&mut self, call: &Call) -> Option<Outcome> {
        let [_, len, _, flags, _, offset] = call.args;
        if flags as i32 & libc::MAP_ANONYMOUS != 0 {
            return Some(Outcome::Native);
        }
        let Some((held, _)) = self.socket_at(call, call.int(4)) else { return Some(Outcome::Native) };
        // A thread has one tracer: whose call was interrupted and comes again waits for the first to let go of it.
        let before = self.mappings.iter().find(|(_, mapping)| mapping.call.tid == call.tid);
        if let Some(pid) = before.map(|(pid, _)| *pid) {
            self.mapping_ended(pid);
        }
        let files: Vec<_> = self.rings.get(&held.cookie).iter().flat_map(|ring| ring.memory()).collect();
        let whole: usize = files.iter().map(|(_, len)| len).sum();
        if offset != 0 || whole == 0 || sys::pages(len as usize) != whole {
            return Some(Outcome::from(Errno::EINVAL));
        }
        let begin = Instant::now();
        if self.busy.is_none_or(|until| until < begin) {
            let outcome = self.map_now(call, &files, whole);
            self.busy = (begin.elapsed() > LONG).then(|| Instant::now() + BUSY);
            return outcome;
        }
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => {
                self.watch_mapping(child, call);
                None
            }
            Ok(ForkResult::Child) => {
                let own = [self.listener.as_fd().as_raw_fd()];
                descriptors::close_all_but(files.iter().map(|(file, _)| file.as_raw_fd()).chain(own).collect());
                if let Some(outcome) = self.map_now(call, &files, whole) {
                    let _ = self.listener.answer(call.id, outcome);
                }
                // SAFETY: nothing of this copy of the supervisor is to be concluded.
                unsafe { libc::_exit(0) }
            }
            Err(_) => self.map_now(call, &files, whole),
        }
    }

    fn map_now(&self, call: &Call, files: &[(&OwnedFd, usize)], whole: usize) -> Option<Outcome> {
        match inject::map(&self.listener, call, files, self.numbers.start) {
            Mapped::Gone(Ok(at)) => self.log.info(format_args!("{}: {whole} bytes mapped at {at:#x}", call.tid)),
            Mapped::Gone(Err(error)) => self.log.info(format_args!("{}: not mapped: {error}", call.tid)),
            Mapped::Refused(error) => {
                self.log.warn(format_args!("{}: cannot be given its rings, is it traced? {error}", call.tid));
                return Some(Outcome::from(error));
            }
        }
        None
    }

    /// Its end will be heard of; where that cannot be, it is waited for.
    fn watch_mapping(&mut self, child: Pid, call: &Call) {
        let pid = child.as_raw().cast_unsigned();
        // SAFETY: numbers only.
        let pidfd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
        // SAFETY: the kernel has just made it.
        let pidfd = pidfd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let event = EpollEvent::new(EpollFlags::EPOLLIN, HELPER | u64::from(pid));
        match pidfd.and_then(|pidfd| self.epoll.add(&pidfd, event).map(|()| pidfd)) {
            Ok(pidfd) => drop(self.mappings.insert(pid, Mapping { _pidfd: pidfd, call: *call })),
            Err(_) => again::reap(child),
        }
    }

    /// A process that makes a mapping has ended, or is about to.
    pub(super) fn mapping_ended(&mut self, pid: u32) {
        let Some(mapping) = self.mappings.remove(&pid) else { return };
        again::reap(Pid::from_raw(pid.cast_signed()));
        // Killed before it had begun: the call waits for nobody.
        let _ = self.listener.answer(mapping.call.id, Outcome::from(Errno::ENOMEM));
    }
}
