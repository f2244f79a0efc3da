//! What is remembered of a guest's traffic: bounded, whatever the guest does.

use std::{collections::HashMap, hash::Hash, time::Instant};

/// A map of two generations. When the younger is full it becomes the older one, and that is forgotten: what was used lately stays,
/// and no entry costs more than another.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    /// For `most` to twice as many entries.
    pub(crate) fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), most }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// One that is found is young again.
    pub(crate) fn find(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(*value);
        }
        let value = self.old.remove(&key)?;
        self.insert(key, value);
        Some(value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }
}

/// What is told of denials: a few a second, and how many were not.
pub(crate) struct Budget {
    left: u32,
    since: Instant,
}

/// As many at once, and one more each `1 / A_SECOND`.
const MOST: u32 = 10;
const A_SECOND: u32 = 4;

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_millis() * u128::from(A_SECOND) / 1000;
        if earned > 0 {
            // At most MOST.
            self.left = (u128::from(self.left) + earned).min(u128::from(MOST)) as u32;
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_used_stays_and_there_are_never_more_than_twice_as_many() {
        let mut recent = Recent::new(100);
        recent.insert(0, ());
        for key in 1..10_000 {
            recent.insert(key, ());
            assert!(recent.find(0).is_some(), "{key}");
            assert!(recent.young.len() + recent.old.len() <= 200);
        }
        assert!(recent.find(5000).is_none());
        assert!(recent.remove(&0).is_some() && recent.find(0).is_none());
    }

    #[test]
    fn a_flood_of_denials_is_told_in_drops() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        let told = |budget: &mut Budget, at| (0..1000).filter(|_| budget.take(begin + at)).count();
        assert_eq!(told(&mut budget, Duration::ZERO), 10);
        assert_eq!(told(&mut budget, Duration::from_secs(1)), 4);
        assert_eq!(told(&mut budget, Duration::from_secs(3600)), 10);
    }
}
