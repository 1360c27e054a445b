//! How much clients may hold: open files and ring memory, for each, for each user, and together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Deserialize;

/// The section `[limits]` of the configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open files together.
    pub opens: u32,
    /// Open files of one user.
    pub opens_per_uid: u32,
    /// Bytes of both rings of one open file.
    pub ring_bytes_per_open: u64,
    /// Bytes of all rings of one user.
    pub ring_bytes_per_uid: u64,
    /// Bytes of all rings together.
    pub ring_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            opens: 8192,
            opens_per_uid: 2048,
            ring_bytes_per_open: 64 << 20,
            ring_bytes_per_uid: 512 << 20,
            ring_bytes: 1 << 30,
        }
    }
}

/// What one user holds, or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub opens: u32,
    pub ring_bytes: u64,
}

#[derive(Default)]
struct Book {
    all: Held,
    users: HashMap<u32, Held>,
}

/// Limits and what is held at the moment.
#[derive(Default)]
pub struct Ledger {
    limits: RwLock<Limits>,
    book: Mutex<Book>,
}

/// Which limit is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded(pub &'static str);

impl Ledger {
    pub fn new(limits: Limits) -> Arc<Ledger> {
        Arc::new(Ledger { limits: RwLock::new(limits), book: Mutex::default() })
    }

    /// New limits; what is held already stays.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn limits(&self) -> Limits {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        if book.all.opens >= limits.opens {
            return Err(Exceeded("opens"));
        }
        if book.users.get(&uid).is_some_and(|user| user.opens >= limits.opens_per_uid) {
            return Err(Exceeded("opens_per_uid"));
        }
        book.all.opens += 1;
        book.users.entry(uid).or_default().opens += 1;
        Ok(Ticket { ledger: self.clone(), uid, ring_bytes: 0 })
    }
}

/// One open file's share; dropped, it is given back.
pub struct Ticket {
    ledger: Arc<Ledger>,
    uid: u32,
    ring_bytes: u64,
}

impl Ticket {
    /// The open file shall have this many bytes of rings.
    pub fn set_ring_bytes(&mut self, bytes: u64) -> Result<(), Exceeded> {
        let limits = self.ledger.limits();
        let mut book = self.ledger.book();
        let user = book.users.get(&self.uid).copied().unwrap_or_default();
        let with = |held: u64| held.saturating_sub(self.ring_bytes).saturating_add(bytes);
        if bytes > self.ring_bytes {
            if bytes > limits.ring_bytes_per_open {
                return Err(Exceeded("ring_bytes_per_open"));
            }
            if with(user.ring_bytes) > limits.ring_bytes_per_uid {
                return Err(Exceeded("ring_bytes_per_uid"));
            }
            if with(book.all.ring_bytes) > limits.ring_bytes {
                return Err(Exceeded("ring_bytes"));
            }
        }
        book.all.ring_bytes = with(book.all.ring_bytes);
        book.users.entry(self.uid).or_default().ring_bytes = with(user.ring_bytes);
        self.ring_bytes = bytes;
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.all.opens -= 1;
        book.all.ring_bytes -= self.ring_bytes;
        if let Some(user) = book.users.get_mut(&self.uid) {
            user.opens -= 1;
            user.ring_bytes -= self.ring_bytes;
            if *user == Held::default() {
                book.users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_and_is_given_back() {
        let ledger = Ledger::new(Limits {
            opens: 3,
            opens_per_uid: 2,
            ring_bytes_per_open: 100,
            ring_bytes_per_uid: 150,
            ring_bytes: 200,
        });
        let mut one = ledger.open(1).unwrap();
        let mut two = ledger.open(1).unwrap();
        assert_eq!(ledger.open(1).err(), Some(Exceeded("opens_per_uid")));
        let mut three = ledger.open(2).unwrap();
        assert_eq!(ledger.open(3).err(), Some(Exceeded("opens")));
        assert_eq!(one.set_ring_bytes(101), Err(Exceeded("ring_bytes_per_open")));
        one.set_ring_bytes(100).unwrap();
        assert_eq!(two.set_ring_bytes(51), Err(Exceeded("ring_bytes_per_uid")));
        two.set_ring_bytes(50).unwrap();
        assert_eq!(three.set_ring_bytes(51), Err(Exceeded("ring_bytes")));
        one.set_ring_bytes(40).unwrap();
        three.set_ring_bytes(100).unwrap();
        assert_eq!(ledger.held(), Held { opens: 3, ring_bytes: 190 });
        ledger.set_limits(Limits { ring_bytes_per_open: 1, ..Limits::default() });
        one.set_ring_bytes(10).unwrap();
        drop((one, two, three));
        assert_eq!(ledger.held(), Held::default());
        assert!(ledger.book().users.is_empty());
    }
}
