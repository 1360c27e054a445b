//! Whose message is judged next: users one after the other, so that one who floods waits for himself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex};

use crate::serve::workers::lock;

/// Things of users, each user's in order, and users one after the other.
pub struct ByUser<T> {
    waiting: HashMap<u32, VecDeque<T>>,
    /// Users with something waiting, in the order of their turns.
    line: VecDeque<u32>,
}

impl<T> ByUser<T> {
    pub fn new() -> ByUser<T> {
        ByUser { waiting: HashMap::new(), line: VecDeque::new() }
    }

    /// Something of a user's, behind everything else of his. Bounded by what he may have under way.
    pub fn push(&mut self, uid: u32, thing: T) {
        let waiting = self.waiting.entry(uid).or_default();
        waiting.push_back(thing);
        if waiting.len() == 1 {
            self.line.push_back(uid);
        }
    }

    /// What is next.
    pub fn pop(&mut self) -> Option<T> {
        let uid = self.line.pop_front()?;
        let waiting = self.waiting.get_mut(&uid)?;
        let thing = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&uid);
        } else {
            self.line.push_back(uid);
        }
        thing
    }
}

struct State<T> {
    queue: ByUser<T>,
    closed: bool,
}

/// What waits for one thread.
pub struct Turns<T> {
    state: Mutex<State<T>>,
    more: Condvar,
}

impl<T> Turns<T> {
    pub fn new() -> Turns<T> {
        Turns { state: Mutex::new(State { queue: ByUser::new(), closed: false }), more: Condvar::new() }
    }

    /// See [`ByUser::push`].
    pub fn push(&self, uid: u32, thing: T) {
        lock(&self.state).queue.push(uid, thing);
        self.more.notify_one();
    }

    /// What is next; waits for it. `None` once it is closed and nothing is left.
    pub fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(thing) = state.queue.pop() {
                return Some(thing);
            }
            if state.closed {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Nothing more comes.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_much_waits_for_himself() {
        let turns = Turns::new();
        for number in 0..100 {
            turns.push(1, (1, number));
        }
        turns.push(2, (2, 0));
        turns.push(2, (2, 1));
        turns.push(3, (3, 0));
        let first: Vec<_> = (0..6).map_while(|_| turns.next()).collect();
        assert_eq!(first, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        turns.push(3, (3, 1));
        assert_eq!([turns.next(), turns.next()], [Some((1, 3)), Some((3, 1))]);
        turns.close();
        let rest: Vec<_> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(rest, (4..100).map(|number| (1, number)).collect::<Vec<_>>());
        assert!(lock(&turns.state).queue.waiting.is_empty());
    }

    #[test]
    fn whoever_waits_hears_of_the_next_and_of_the_end() {
        let turns = std::sync::Arc::new(Turns::new());
        let other = turns.clone();
        let thread = std::thread::spawn(move || (other.next(), other.next()));
        turns.push(5, 7);
        turns.close();
        assert_eq!(thread.join().unwrap(), (Some(7), None));
    }
}
