//! Refusals are caused by clients, at any rate. Each user's are logged up to a number a second, the rest is counted and
//! told when the second is over.

use std::time::{Duration, Instant};

/// Refusals of one user that are logged in one second.
const OF_ONE: u32 = 5;
/// And of all together.
const OF_ALL: u32 = 50;
/// Users that are told apart at a time; the next ones share one count.
const USERS: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

/// What to do with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Tell,
    /// The first that is only counted: somebody has to tell that later.
    FirstUntold,
    Untold,
}

struct User {
    /// `None` stands for all that are not told apart.
    uid: Option<u32>,
    since: Instant,
    told: u32,
    untold: u64,
}

/// The counts of the current second.
pub struct Floods {
    users: Vec<User>,
    all: Option<(Instant, u32)>,
}

impl Floods {
    pub const fn new() -> Floods {
        Floods { users: Vec::new(), all: None }
    }

    /// A user has been refused something.
    pub fn judge(&mut self, uid: u32, now: Instant) -> Verdict {
        // Whoever has nothing left to tell is forgotten.
        self.users.retain(|user| user.untold != 0 || now.duration_since(user.since) < SECOND);
        let known = self.users.iter().position(|user| user.uid == Some(uid));
        let at = known.unwrap_or_else(|| {
            let uid = (self.users.len() < USERS).then_some(uid);
            let shared = self.users.iter().position(|user| user.uid.is_none() && uid.is_none());
            shared.unwrap_or_else(|| {
                self.users.push(User { uid, since: now, told: 0, untold: 0 });
                self.users.len() - 1
            })
        });
        let all = match self.all {
            Some((since, told)) if now.duration_since(since) < SECOND => (since, told),
            _ => (now, 0),
        };
        let Some(user) = self.users.get_mut(at) else {
            return Verdict::Untold;
        };
        if user.untold == 0 && user.told < OF_ONE && all.1 < OF_ALL {
            user.told += 1;
            self.all = Some((all.0, all.1 + 1));
            return Verdict::Tell;
        }
        self.all = Some(all);
        user.untold += 1;
        if user.untold == 1 { Verdict::FirstUntold } else { Verdict::Untold }
    }

    /// What was only counted, of those whose second is over; and when to ask again.
    pub fn untold(&mut self, now: Instant) -> (Vec<(Option<u32>, u64)>, Option<Duration>) {
        let (mut told, mut next) = (Vec::new(), None::<Duration>);
        self.users.retain(|user| {
            let left = SECOND.saturating_sub(now.duration_since(user.since));
            if user.untold == 0 {
                return !left.is_zero();
            }
            if left.is_zero() {
                told.push((user.uid, user.untold));
                return false;
            }
            next = Some(next.map_or(left, |next| next.min(left)));
            true
        });
        (told, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_flood_is_counted_and_hides_nobody_elses_refusals() {
        let mut floods = Floods::new();
        let start = Instant::now();
        let verdicts: Vec<_> = (0..1000).map(|_| floods.judge(7, start)).collect();
        assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Tell).count(), OF_ONE as usize);
        assert_eq!(verdicts.iter().filter(|v| **v == Verdict::FirstUntold).count(), 1);
        assert_eq!(floods.judge(8, start), Verdict::Tell);
        let (told, next) = floods.untold(start);
        assert_eq!((told, next), (vec![], Some(SECOND)));
        let later = start + SECOND;
        assert_eq!(floods.untold(later), (vec![(Some(7), 1000 - u64::from(OF_ONE))], None));
        assert_eq!(floods.judge(7, later), Verdict::Tell);
    }

    #[test]
    fn any_number_of_users_costs_bounded_memory_and_lines() {
        let mut floods = Floods::new();
        let start = Instant::now();
        let told = (0..100_000).filter(|uid| floods.judge(*uid, start) == Verdict::Tell).count();
        assert_eq!(told, OF_ALL as usize);
        assert!(floods.users.len() <= USERS + 1);
        let (untold, next) = floods.untold(start + SECOND);
        assert_eq!(untold.iter().map(|(_, count)| count).sum::<u64>(), 100_000 - u64::from(OF_ALL));
        assert!(untold.iter().any(|(uid, _)| uid.is_none()));
        assert_eq!(next, None);
        assert!(floods.users.is_empty());
    }
}
