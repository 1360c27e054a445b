//! Before the grantor: it sends what has been judged in the order in which it is told, so few are told at a time, and users have
//! turns here as well. A flood of one user's would else stand before another's one message there.

use std::sync::{Arc, Mutex};

use super::lock;
use super::turns::ByUser;

/// With the grantor at a time: one that it works on, and the next.
const MOST: usize = 2;

/// Something for the grantor. It keeps the pass until the grantor has answered.
pub type Errand = Box<dyn FnOnce(Pass) + Send>;

struct State {
    there: usize,
    waiting: ByUser<Errand>,
    /// A thread is sending somebody on, and looks again afterwards.
    sending: bool,
}

/// The line.
pub struct Line(Mutex<State>);

/// The right to be there.
pub struct Pass(Arc<Line>);

impl Line {
    pub fn new() -> Arc<Line> {
        Arc::new(Line(Mutex::new(State { there: 0, waiting: ByUser::new(), sending: false })))
    }

    /// Behind everything else of this user's.
    pub fn enter(self: &Arc<Line>, uid: u32, errand: Errand) {
        lock(&self.0).waiting.push(uid, errand);
        self.go_on();
    }

    /// Not by recursion: an errand may be over at once.
    fn go_on(self: &Arc<Line>) {
        loop {
            let errand = {
                let mut state = lock(&self.0);
                if state.sending || state.there >= MOST {
                    return;
                }
                let Some(errand) = state.waiting.pop() else { return };
                state.there += 1;
                state.sending = true;
                errand
            };
            errand(Pass(self.clone()));
            lock(&self.0).sending = false;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.0.0).there -= 1;
        self.0.go_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_there_and_users_have_turns() {
        let (line, seen) = (Line::new(), Arc::new(Mutex::new(Vec::new())));
        let there = Arc::new(Mutex::new(Vec::new()));
        let enter = |uid, number| {
            let (seen, there) = (seen.clone(), there.clone());
            line.enter(
                uid,
                Box::new(move |pass| {
                    lock(&seen).push((uid, number));
                    lock(&there).push(pass);
                }),
            );
        };
        for number in 0..6 {
            enter(1, number);
        }
        enter(2, 0);
        enter(2, 1);
        assert_eq!(*lock(&seen), [(1, 0), (1, 1)]);
        loop {
            let Some(pass) = lock(&there).pop() else { break };
            drop(pass);
            assert!(lock(&there).len() <= MOST);
        }
        assert_eq!(lock(&seen)[2..], [(1, 2), (2, 0), (1, 3), (2, 1), (1, 4), (1, 5)]);
        assert_eq!(lock(&line.0).there, 0);
    }

    #[test]
    fn any_number_may_be_over_at_once() {
        let (line, count) = (Line::new(), Arc::new(Mutex::new(0)));
        let held = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..MOST {
            let held = held.clone();
            line.enter(1, Box::new(move |pass| lock(&held).push(pass)));
        }
        for uid in 0..100_000 {
            let count = count.clone();
            line.enter(uid % 7, Box::new(move |_| *lock(&count) += 1));
        }
        assert_eq!(*lock(&count), 0);
        let held = std::mem::take(&mut *lock(&held));
        drop(held);
        assert_eq!(*lock(&count), 100_000);
    }
}
