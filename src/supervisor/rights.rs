//! A client's rights, when they are not the supervisor's any more: what it asks for is done with its own.

use std::fs;

use nix::errno::Errno;

use super::again;

/// To give another process's name beside a message.
const NAMING: u64 = 1 << 21 | 1 << 7 | 1 << 6;

/// User, groups, capabilities and user namespace of a thread, as the kernel tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Real and effective.
    user: [u32; 2],
    group: [u32; 2],
    groups: Vec<u32>,
    capabilities: u64,
    permitted: u64,
    namespace: String,
}

impl Rights {
    pub fn of(task: &str) -> Option<Rights> {
        let namespace = fs::read_link(format!("/proc/{task}/ns/user")).ok()?.to_string_lossy().into_owned();
        parse(&fs::read_to_string(format!("/proc/{task}/status")).ok()?, namespace)
    }

    /// Whether messages of one and of the other are judged alike.
    fn are_as(&self, other: &Rights) -> bool {
        Rights { permitted: 0, ..self.clone() } == Rights { permitted: 0, ..other.clone() }
    }

    /// Whether a process with them may name others as senders (`CAP_SYS_ADMIN`, `CAP_SETUID`, `CAP_SETGID`).
    pub fn may_name(&self) -> bool {
        self.capabilities & NAMING == NAMING
    }

    /// This process's rights become these. `ours` are what it has, and keeps permitted; of those it keeps `beside` in use.
    fn take(&self, ours: &Rights, beside: u64) -> Result<(), Errno> {
        let groups: Vec<libc::gid_t> = self.groups.clone();
        let same = u32::MAX;
        // SAFETY: numbers, and as many groups as are said.
        unsafe {
            Errno::result(libc::setgroups(groups.len(), groups.as_ptr()))?;
            Errno::result(libc::setresgid(self.group[0], self.group[1], same))?;
            Errno::result(libc::setresuid(self.user[0], self.user[1], same))?;
        }
        set_capabilities((self.capabilities | beside) & ours.permitted, ours.permitted)
    }
}

fn parse(status: &str, namespace: String) -> Option<Rights> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let word = |name: &str, index: usize| line(name)?.split_ascii_whitespace().nth(index)?.parse().ok();
    let set = |name: &str| u64::from_str_radix(line(name)?.trim(), 16).ok();
    Some(Rights {
        user: [word("Uid:", 0)?, word("Uid:", 1)?],
        group: [word("Gid:", 0)?, word("Gid:", 1)?],
        groups: line("Groups:")?.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect(),
        capabilities: set("CapEff:")?,
        permitted: set("CapPrm:")?,
        namespace,
    })
}

/// `capset` of this thread, which is all there is.
fn set_capabilities(effective: u64, permitted: u64) -> Result<(), Errno> {
    let header = [0x2008_0522u32, 0];
    let half = |shift: u32| [(effective >> shift) as u32, (permitted >> shift) as u32, 0];
    let sets = [half(0), half(32)].concat();
    // SAFETY: version 3 reads a header of 8 bytes and two sets of 12.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }).map(drop)
}

/// Does something with the rights of a thread, in whose name it is done. `EPERM` if this process cannot have them. `naming`: and with
/// the right to say whose name that is, which no receiver but another process may judge.
pub fn with_those_of<T>(tid: u32, ours: &Rights, naming: bool, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let theirs = Rights::of(&tid.to_string()).ok_or(Errno::EPERM)?;
    if theirs.are_as(ours) {
        return Ok(work());
    }
    if ours.user[1] != 0 || theirs.namespace != ours.namespace {
        return Err(Errno::EPERM);
    }
    let taken = theirs.take(ours, if naming { NAMING } else { 0 });
    let done = taken.map(|()| work());
    // Whatever comes next would be done by the wrong one.
    again::or_abort(|| set_capabilities(ours.permitted, ours.permitted).and_then(|()| ours.take(ours, 0)));
    done.map_err(|_| Errno::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapInh:\t0\nCapPrm:\t00000000000030ff\n\
                          CapEff:\t0000000000001000\n";

    #[test]
    fn rights_are_read_as_the_kernel_tells_them() {
        let rights = parse(STATUS, "user:[1]".to_owned()).unwrap();
        assert_eq!((rights.user, rights.group, rights.groups.as_slice()), ([1, 2], [5, 6], &[9, 10][..]));
        assert_eq!((rights.capabilities, rights.permitted), (0x1000, 0x30ff));
        assert!(parse("Uid:\t1\n", String::new()).is_none());
        let ours = Rights::of("self").unwrap();
        assert!(
            ours.are_as(&Rights { permitted: 1, ..ours.clone() })
                && !ours.are_as(&Rights { group: [77, 77], ..ours.clone() })
        );
    }

    #[test]
    fn ones_own_are_taken_without_a_change() {
        let ours = Rights::of("self").unwrap();
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        assert_eq!(with_those_of(tid, &ours, false, || 7), Ok(7));
        let other = Rights { user: [1, 1], capabilities: 0, ..ours };
        assert_eq!(with_those_of(tid, &other, false, || 7), Err(Errno::EPERM));
    }
}
