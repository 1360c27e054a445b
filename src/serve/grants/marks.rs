//! Marks: for whom, and by which rule, a sieve that only tells has heard something.

use std::sync::Mutex;

use super::lock;
use crate::policy::sieve::{MOST_RULES, Pattern};
use crate::policy::subject::Subject;

/// For whom, and by which rule; by its place, from one.
#[derive(Default)]
pub struct Marks(Mutex<Vec<(Subject, Option<String>)>>);

impl Marks {
    /// None once there are as many as a sieve tells apart.
    pub fn of(&self, subject: &Subject, rule: Option<&str>) -> Option<Pattern> {
        let mut marks = lock(&self.0);
        let known = marks.iter().position(|(whom, by)| whom == subject && by.as_deref() == rule);
        let at = known.or_else(|| {
            (marks.len() < MOST_RULES).then(|| {
                marks.push((subject.clone(), rule.map(str::to_owned)));
                marks.len() - 1
            })
        });
        at.map(|at| Pattern::mark(at as u8 + 1))
    }

    pub fn get(&self, mark: u8) -> Option<(Subject, Option<String>)> {
        lock(&self.0).get(usize::from(mark).checked_sub(1)?).cloned()
    }
}
