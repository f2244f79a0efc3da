//! When each step of a start was done, counted from the entry of `main`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use securectr_sandbox::Step;

/// Since it was made. The pump of the output adds a stamp from its own thread, hence the lock.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    begin: Instant,
    pub(crate) began: SystemTime,
    stamps: Arc<Mutex<Vec<(String, Duration)>>>,
}

impl Timeline {
    pub(crate) fn begin() -> Self {
        Self { begin: Instant::now(), began: SystemTime::now(), stamps: Arc::default() }
    }

    /// Notes that a step is done; the first time counts.
    pub(crate) fn stamp(&self, step: &str) {
        self.add(step, Instant::now());
    }

    /// The same of steps that somebody else has done.
    pub(crate) fn take_over(&self, steps: &[Step]) {
        steps.iter().for_each(|(step, when)| self.add(step, *when));
    }

    fn add(&self, step: &str, when: Instant) {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps.iter().all(|(other, _)| other != step) {
            stamps.push((step.to_owned(), when.saturating_duration_since(self.begin)));
        }
    }

    /// In their order.
    pub(crate) fn stamps(&self) -> Vec<(String, Duration)> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stamps.sort_by_key(|(_, since)| *since);
        stamps
    }

    /// In microseconds, by `<step>_us`.
    pub(crate) fn in_us(&self) -> BTreeMap<String, u64> {
        self.stamps()
            .into_iter()
            .map(|(step, since)| (format!("{step}_us"), since.as_micros() as u64))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_when_it_was_first_done() {
        let timeline = Timeline::begin();
        let later = timeline.begin + Duration::from_millis(3);
        timeline.take_over(&[
            ("agent", later),
            ("vmm", timeline.begin),
            ("agent", later + Duration::from_secs(1)),
        ]);
        let of = |step: &str, ms| (step.to_owned(), Duration::from_millis(ms));
        assert_eq!(timeline.stamps(), [of("vmm", 0), of("agent", 3)]);
        assert_eq!(
            timeline.in_us(),
            BTreeMap::from([("agent_us".to_owned(), 3000), ("vmm_us".to_owned(), 0)])
        );
    }
}
