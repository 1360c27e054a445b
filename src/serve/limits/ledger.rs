//! What clients hold at the moment, and whether they may hold more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{DESCRIPTORS_PER_OPEN, DESCRIPTORS_PER_WORKER, Exceeded, Limits, OWN_MEMORY, machine};

/// What one user holds, or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub opens: u32,
    pub workers: u32,
    pub ring_bytes: u64,
    /// Of those, what clients' control groups were charged for.
    pub paid_bytes: u64,
}

impl Held {
    pub fn descriptors(&self) -> u64 {
        u64::from(self.opens) * DESCRIPTORS_PER_OPEN + u64::from(self.workers) * DESCRIPTORS_PER_WORKER
    }
}

#[derive(Default)]
struct Book {
    all: Held,
    users: HashMap<u32, Held>,
}

/// Limits and what is held at the moment.
pub struct Ledger {
    limits: RwLock<Limits>,
    book: Mutex<Book>,
}

impl Ledger {
    pub fn new(limits: Limits) -> Arc<Ledger> {
        Arc::new(Ledger { limits: RwLock::new(limits), book: Mutex::default() })
    }

    /// New limits; what is held already stays.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all clients hold.
    pub fn held(&self) -> Held {
        self.book().all
    }

    /// One more open file of user `uid`.
    pub fn open(self: &Arc<Ledger>, uid: u32) -> Result<Ticket, Exceeded> {
        let limits = self.limits();
        let mut book = self.book();
        let opens = if uid == 0 { limits.opens } else { limits.opens - limits.opens / 16 };
        if book.all.opens >= opens {
            return Err(Exceeded::Opens(limits.opens));
        }
        if book.of(uid).opens >= limits.opens_per_uid {
            return Err(Exceeded::OpensPerUid(limits.opens_per_uid));
        }
        book.has_descriptors(&limits, uid, DESCRIPTORS_PER_OPEN)?;
        book.all.opens += 1;
        book.users.entry(uid).or_default().opens += 1;
        Ok(Ticket { ledger: self.clone(), uid, ring_bytes: 0, paid_bytes: 0 })
    }
}

impl Book {
    fn of(&self, uid: u32) -> Held {
        self.users.get(&uid).copied().unwrap_or_default()
    }

    /// Whether there are so many more for a user. Of what all share, others than root leave something: whoever comes to look at a
    /// flood can open the node.
    fn has_descriptors(&self, limits: &Limits, uid: u32, more: u64) -> Result<(), Exceeded> {
        let most = if uid == 0 { limits.descriptors } else { limits.descriptors - limits.descriptors / 16 };
        if self.all.descriptors() + more > most {
            return Err(Exceeded::Descriptors(limits.descriptors));
        }
        if self.of(uid).descriptors() + more > limits.descriptors_per_uid {
            return Err(Exceeded::DescriptorsPerUid(limits.descriptors_per_uid));
        }
        Ok(())
    }

    fn forget_if_none(&mut self, uid: u32) {
        if self.users.get(&uid) == Some(&Held::default()) {
            self.users.remove(&uid);
        }
    }
}

/// One worker's share; dropped, it is given back.
pub struct WorkerTicket {
    ledger: Arc<Ledger>,
    uid: u32,
}

impl Ledger {
    /// One more worker, for clients of user `uid`.
    pub fn worker(self: &Arc<Ledger>, uid: u32) -> Result<WorkerTicket, Exceeded> {
        let limits = self.limits();
        let mut book = self.book();
        book.has_descriptors(&limits, uid, DESCRIPTORS_PER_WORKER)?;
        book.all.workers += 1;
        book.users.entry(uid).or_default().workers += 1;
        Ok(WorkerTicket { ledger: self.clone(), uid })
    }
}

impl Drop for WorkerTicket {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.all.workers -= 1;
        if let Some(user) = book.users.get_mut(&self.uid) {
            user.workers -= 1;
        }
        book.forget_if_none(self.uid);
    }
}

/// One open file's share; dropped, it is given back.
pub struct Ticket {
    ledger: Arc<Ledger>,
    uid: u32,
    ring_bytes: u64,
    paid_bytes: u64,
}

impl Ticket {
    /// The open file shall have this many bytes of rings.
    pub fn set_ring_bytes(&mut self, bytes: u64) -> Result<(), Exceeded> {
        let limits = self.ledger.limits();
        let mut book = self.ledger.book();
        let user = book.of(self.uid);
        let with = |held: u64| held.saturating_sub(self.ring_bytes).saturating_add(bytes);
        if bytes > self.ring_bytes {
            if bytes > limits.ring_bytes_per_open {
                return Err(Exceeded::RingBytesPerOpen(limits.ring_bytes_per_open));
            }
            if with(user.ring_bytes) > limits.ring_bytes_per_uid {
                return Err(Exceeded::RingBytesPerUid(limits.ring_bytes_per_uid));
            }
            let most = if self.uid == 0 { limits.ring_bytes } else { limits.ring_bytes - limits.ring_bytes / 16 };
            if with(book.all.ring_bytes) > most {
                return Err(Exceeded::RingBytes(limits.ring_bytes));
            }
            // Others use memory too. Whoever is in the way when it ends is killed, and the daemon is the largest.
            // What others were charged for counts as well: a client can make holes into it, which are filled in the daemon's name.
            let room = machine::room(book.all.paid_bytes).saturating_sub(OWN_MEMORY);
            if bytes - self.ring_bytes > room {
                return Err(Exceeded::Memory(room));
            }
        }
        book.all.ring_bytes = with(book.all.ring_bytes);
        book.users.entry(self.uid).or_default().ring_bytes = with(user.ring_bytes);
        self.ring_bytes = bytes;
        let paid = bytes.min(self.paid_bytes);
        Self::note_paid(&mut book, self.uid, &mut self.paid_bytes, paid);
        Ok(())
    }

    /// The client's control group was charged for its rings.
    pub fn paid(&mut self, bytes: u64) {
        let ledger = self.ledger.clone();
        let paid = bytes.min(self.ring_bytes);
        Self::note_paid(&mut ledger.book(), self.uid, &mut self.paid_bytes, paid);
    }

    /// How many bytes it was charged for.
    pub fn paid_bytes(&self) -> u64 {
        self.paid_bytes
    }

    fn note_paid(book: &mut Book, uid: u32, held: &mut u64, bytes: u64) {
        for who in [&mut book.all, book.users.entry(uid).or_default()] {
            who.paid_bytes = who.paid_bytes - *held + bytes;
        }
        *held = bytes;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.all.opens -= 1;
        book.all.ring_bytes -= self.ring_bytes;
        book.all.paid_bytes -= self.paid_bytes;
        if let Some(user) = book.users.get_mut(&self.uid) {
            user.opens -= 1;
            user.ring_bytes -= self.ring_bytes;
            user.paid_bytes -= self.paid_bytes;
        }
        book.forget_if_none(self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        opens: 3,
        opens_per_uid: 2,
        descriptors: 1000,
        descriptors_per_uid: 1000,
        ring_bytes_per_open: 100,
        ring_bytes_per_uid: 150,
        ring_bytes: 200,
    };

    #[test]
    fn each_limit_holds_and_is_given_back() {
        let ledger = Ledger::new(SMALL);
        let mut one = ledger.open(1).unwrap();
        let mut two = ledger.open(1).unwrap();
        assert_eq!(ledger.open(1).err(), Some(Exceeded::OpensPerUid(2)));
        let mut three = ledger.open(2).unwrap();
        assert_eq!(ledger.open(3).err(), Some(Exceeded::Opens(3)));
        assert_eq!(one.set_ring_bytes(101), Err(Exceeded::RingBytesPerOpen(100)));
        one.set_ring_bytes(100).unwrap();
        assert_eq!(two.set_ring_bytes(51), Err(Exceeded::RingBytesPerUid(150)));
        two.set_ring_bytes(50).unwrap();
        assert_eq!(three.set_ring_bytes(51), Err(Exceeded::RingBytes(200)));
        one.set_ring_bytes(40).unwrap();
        assert_eq!(three.set_ring_bytes(100), Err(Exceeded::RingBytes(200)), "the last sixteenth is root's");
        three.set_ring_bytes(98).unwrap();
        assert_eq!(ledger.held(), Held { opens: 3, ring_bytes: 188, ..Held::default() });
        three.paid(90);
        two.paid(1000);
        assert_eq!((ledger.held().paid_bytes, two.paid_bytes()), (140, 50), "no more than there is");
        three.set_ring_bytes(30).unwrap();
        three.set_ring_bytes(98).unwrap();
        assert_eq!(ledger.held().paid_bytes, 80, "what was given back and taken again was not paid");
        ledger.set_limits(Limits { ring_bytes_per_open: 1, ..SMALL });
        one.set_ring_bytes(10).unwrap();
        drop(two);
        ledger.set_limits(Limits { ring_bytes: 118, ..SMALL });
        let mut roots = ledger.open(0).unwrap();
        roots.set_ring_bytes(10).unwrap();
        drop((one, three, roots));
        assert_eq!(ledger.held(), Held::default());
        assert!(ledger.book().users.is_empty());
    }

    #[test]
    fn descriptors_are_a_limit_and_root_finds_some() {
        let limits = Limits { opens: 1000, opens_per_uid: 1000, descriptors: 320, descriptors_per_uid: 160, ..SMALL };
        let ledger = Ledger::new(limits);
        let open = |uid| std::iter::from_fn(|| ledger.open(uid).ok()).collect::<Vec<_>>();
        let first = open(1);
        assert_eq!(first.len() as u64, 160 / DESCRIPTORS_PER_OPEN);
        assert_eq!(ledger.open(1).err(), Some(Exceeded::DescriptorsPerUid(160)));
        let second = open(2);
        assert_eq!(ledger.open(2).err(), Some(Exceeded::Descriptors(320)));
        assert_eq!((first.len() + second.len()) as u64, (320 - 20) / DESCRIPTORS_PER_OPEN);
        assert_eq!(open(0).len(), 6, "the reserve");
        assert_eq!(ledger.held().descriptors(), 300);
        drop((first, second));
        let workers: Vec<_> = std::iter::from_fn(|| ledger.worker(1).ok()).collect();
        assert_eq!(workers.len() as u64, 160 / DESCRIPTORS_PER_WORKER, "workers take of the same");
        assert_eq!(ledger.worker(1).err(), Some(Exceeded::DescriptorsPerUid(160)));
        assert_eq!(ledger.open(1).err(), Some(Exceeded::DescriptorsPerUid(160)));
        drop(workers);
        assert_eq!(ledger.held(), Held::default());
        assert!(ledger.book().users.is_empty());
    }

    #[test]
    fn memory_that_is_not_there_is_not_given() {
        let ledger = Ledger::new(Limits {
            ring_bytes_per_open: u64::MAX,
            ring_bytes_per_uid: u64::MAX,
            ring_bytes: u64::MAX,
            ..SMALL
        });
        let mut ticket = ledger.open(1).unwrap();
        assert!(matches!(ticket.set_ring_bytes(1 << 50), Err(Exceeded::Memory(_))));
        assert_eq!(ledger.held().ring_bytes, 0);
    }
}
