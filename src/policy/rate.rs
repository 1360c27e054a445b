//! So many messages a second: a bucket for each rule and user.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets that are full again are forgotten when there are more than this.
const MANY: usize = 4096;

#[derive(Default)]
pub struct Rates(Mutex<HashMap<(usize, u32), Bucket>>);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    /// Takes `count` messages of a rule with `rate` a second; a burst may have as many as a second.
    pub fn take(&self, rule: usize, uid: u32, rate: u32, count: usize, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > MANY {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() == 0);
        }
        let full = f64::from(rate);
        let bucket = buckets.entry((rule, uid)).or_insert(Bucket { left: full, at: now });
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * full;
        *bucket = Bucket { left: (bucket.left + gained).min(full), at: now };
        if bucket.left < count as f64 {
            return false;
        }
        bucket.left -= count as f64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_brings_as_many_as_the_rate_to_each_user() {
        let (rates, start) = (Rates::default(), Instant::now());
        let took = |uid, at: Duration| (0..100).filter(|_| rates.take(0, uid, 10, 1, start + at)).count();
        assert_eq!(took(1, Duration::ZERO), 10);
        assert_eq!(took(2, Duration::ZERO), 10, "another user's bucket");
        assert_eq!(took(1, Duration::from_millis(500)), 5);
        assert_eq!(took(1, Duration::from_secs(100)), 10, "no more than a second's");
        assert!(!rates.take(1, 1, 10, 11, start), "more at once than the rate");
    }

    #[test]
    fn buckets_are_bounded() {
        let (rates, start) = (Rates::default(), Instant::now());
        for uid in 0..20_000 {
            rates.take(0, uid, 1, 1, start + Duration::from_millis(u64::from(uid)));
        }
        assert!(rates.0.lock().unwrap().len() <= MANY + 1001);
    }
}
