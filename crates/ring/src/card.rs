//! What people are shown of an endpoint beside its state: whose it is, its shape, and what a command's endpoints add up to.
//!
//! A [`Card`] lies in the page of the [`Control`], so that one page of shared memory is all that there is to look at. It is
//! written when an endpoint is made, changed or left, and read by nobody whose work depends on it.

use crate::abi::nl_mmap_req;
use crate::control::{Control, Counters};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where in the control's page the card lies.
pub const AT: usize = 2048;
/// Of the page's layout: one that was written by another version of the engine is not read.
pub const VERSION: u32 = 1 << 16 | size_of::<Control>() as u32;

/// The page as one who looks at it reads it.
#[derive(Debug)]
#[repr(C)]
pub struct Page {
    /// The endpoint's state.
    pub control: Control,
    between: [u8; AT - size_of::<Control>()],
    /// Whose it is.
    pub card: Card,
    behind: [u8; crate::sys::PAGE - AT - size_of::<Card>()],
}

const _: () = assert!(size_of::<Page>() == crate::sys::PAGE && core::mem::offset_of!(Page, card) == AT);

impl Default for Page {
    fn default() -> Page {
        Page {
            control: Control::default(),
            between: [0; AT - size_of::<Control>()],
            card: Card::default(),
            behind: [0; crate::sys::PAGE - AT - size_of::<Card>()],
        }
    }
}

impl Page {
    /// Its bytes, to read it into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: atomics and bytes, without padding that is looked at: any bytes are a Page.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(self).cast(), size_of::<Page>()) }
    }
}

/// See the module. All zeroes is a card that nobody has filled in.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Card {
    /// [`VERSION`], stored last.
    pub version: AtomicU32,
    /// It is in a [`Totals`] already.
    pub counted: AtomicU32,
    /// Its maker uses it no more.
    pub left: AtomicU32,
    /// Forks that were about to give it one more user.
    pub forked: AtomicU32,
    /// Children that have it, and are noted as such if they have it mapped.
    pub settled: AtomicU32,
    /// Which copy of what passes is asked for ([`crate::tap`]); another number for each.
    pub tap: AtomicU32,
    /// The process that made it.
    pub pid: AtomicU32,
    /// Effective user of that process then.
    pub uid: AtomicU32,
    /// Its descriptor then.
    pub fd: AtomicU32,
    /// `NETLINK_*` number.
    pub family: AtomicU32,
    /// Answers as 4.5 did.
    pub strict: AtomicU32,
    /// When that process began, and where its stack does (fields 22 and 28 of `/proc/PID/stat`): another process of the same
    /// number, and another program in the same process, have others.
    pub start: AtomicU64,
    /// See `start`.
    pub stack: AtomicU64,
    /// `CLOCK_MONOTONIC` when it was made, in nanoseconds.
    pub made: AtomicU64,
    /// `SO_COOKIE`
    pub cookie: AtomicU64,
    /// Geometry of the receive ring, zeroes for none: block size, blocks, frame size, frames.
    pub rx: [AtomicU32; 4],
    /// The transmit ring's.
    pub tx: [AtomicU32; 4],
    /// Name of the program.
    pub command: [AtomicU32; 4],
}

fn set(words: &[AtomicU32; 4], values: [u32; 4]) {
    words.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
}

fn get(words: &[AtomicU32; 4]) -> [u32; 4] {
    [0, 1, 2, 3].map(|i| words.get(i).map_or(0, |word: &AtomicU32| word.load(Ordering::Relaxed)))
}

/// A ring's request as words.
fn shape(ring: Option<&nl_mmap_req>) -> [u32; 4] {
    ring.map_or([0; 4], |r| [r.nm_block_size, r.nm_block_nr, r.nm_frame_size, r.nm_frame_nr])
}

impl Card {
    /// Notes a ring, or that there is none.
    pub fn note_ring(&self, is_rx: bool, ring: Option<&nl_mmap_req>) {
        set(if is_rx { &self.rx } else { &self.tx }, shape(ring));
    }

    /// The rings' shapes, receive first.
    pub fn rings(&self) -> [Option<nl_mmap_req>; 2] {
        [&self.rx, &self.tx].map(|words| {
            let [nm_block_size, nm_block_nr, nm_frame_size, nm_frame_nr] = get(words);
            (nm_frame_nr > 0).then_some(nl_mmap_req { nm_block_size, nm_block_nr, nm_frame_size, nm_frame_nr })
        })
    }

    /// Notes the program's name.
    pub fn name(&self, name: &[u8]) {
        let mut text = [0u8; 16];
        text.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        let (words, _) = text.as_chunks::<4>();
        self.command.iter().zip(words).for_each(|(to, from)| to.store(u32::from_ne_bytes(*from), Ordering::Relaxed));
    }

    /// Whether it is counted by the caller, now and nobody else.
    pub fn count(&self) -> bool {
        self.counted.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// An endpoint that is over, as far as people care.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Record {
    /// How many endpoints it stands for, stored last.
    pub endpoints: AtomicU32,
    /// As in the card.
    pub pid: AtomicU32,
    /// As in the card.
    pub fd: AtomicU32,
    /// As in the card.
    pub family: AtomicU32,
    /// As in the card.
    pub strict: AtomicU32,
    /// As in the card.
    pub command: [AtomicU32; 4],
    /// As in the card.
    pub rx: [AtomicU32; 4],
    /// As in the card.
    pub tx: [AtomicU32; 4],
    /// What went through it.
    pub counters: Counters,
}

impl Record {
    /// Takes one endpoint in.
    pub fn add(&self, card: &Card, control: &Control) {
        for (to, from) in
            [(&self.pid, &card.pid), (&self.fd, &card.fd), (&self.family, &card.family), (&self.strict, &card.strict)]
        {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (to, from) in [(&self.command, &card.command), (&self.rx, &card.rx), (&self.tx, &card.tx)] {
            set(to, get(from));
        }
        for (to, from) in self.counters.words().into_iter().zip(control.counters.words()) {
            to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let (to, from) = (&self.counters.held_bytes, &control.counters.held_bytes);
        to.fetch_max(from.load(Ordering::Relaxed), Ordering::Relaxed);
        self.endpoints.fetch_add(1, Ordering::Release);
    }
}

/// How many endpoints are told apart; those beyond are added up.
pub const RECORDS: usize = 48;

/// What the endpoints of a command, and of all that it starts, add up to: one file that those share who make them.
#[derive(Debug)]
#[repr(C)]
pub struct Totals {
    /// [`VERSION`]
    pub version: AtomicU32,
    /// Records given out.
    pub taken: AtomicU32,
    /// The first endpoints.
    pub records: [Record; RECORDS],
    /// The others together.
    pub others: Record,
}

/// Bytes of the file.
pub const TOTALS_LEN: usize = crate::sys::pages(size_of::<Totals>());

impl Default for Totals {
    fn default() -> Totals {
        let records = core::array::from_fn(|_| Record::default());
        Totals { version: AtomicU32::new(VERSION), taken: AtomicU32::new(0), records, others: Record::default() }
    }
}

impl Totals {
    /// Its bytes, to read it into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: atomics, and padding that nobody looks at: any bytes are Totals.
        unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(self).cast(), size_of::<Totals>()) }
    }

    /// Takes an endpoint in that is over.
    pub fn add(&self, card: &Card, control: &Control) {
        let nr = self.taken.fetch_add(1, Ordering::Relaxed) as usize;
        self.records.get(nr).unwrap_or(&self.others).add(card, control);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_counted_once_and_beyond_the_records_together() {
        let totals = Totals::default();
        let (card, control) = (Card::default(), Control::default());
        card.name(b"a-name-that-is-too-long");
        control.counters.rx_frames.store(3, Ordering::Relaxed);
        assert!(card.count() && !card.count());
        for _ in 0..RECORDS + 5 {
            totals.add(&card, &control);
        }
        let n = |r: &Record| (r.endpoints.load(Ordering::Relaxed), r.counters.rx_frames.load(Ordering::Relaxed));
        assert!(totals.records.iter().all(|r| n(r) == (1, 3)));
        assert_eq!(n(&totals.others), (5, 15));
        assert_eq!(totals.others.command[3].load(Ordering::Relaxed).to_ne_bytes(), *b"is-t");
    }

    #[test]
    fn bytes_of_a_page_are_an_endpoint() {
        let (mut page, from) = (Page::default(), Page::default());
        from.card.pid.store(77, Ordering::Relaxed);
        from.control.counters.held.store(5, Ordering::Relaxed);
        let mut from = from;
        page.bytes_mut().copy_from_slice(from.bytes_mut());
        assert_eq!(page.card.pid.load(Ordering::Relaxed), 77);
        assert_eq!(page.control.counters.held.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn shapes_go_in_and_out() {
        let card = Card::default();
        assert_eq!(card.rings(), [None, None]);
        let ring = nl_mmap_req { nm_block_size: 4096, nm_block_nr: 2, nm_frame_size: 2048, nm_frame_nr: 4 };
        card.note_ring(false, Some(&ring));
        assert_eq!(card.rings(), [None, Some(ring)]);
        card.note_ring(false, None);
        assert_eq!(card.rings(), [None, None]);
    }
}
