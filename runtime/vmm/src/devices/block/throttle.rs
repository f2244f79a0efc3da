//! What disks that lie on one device of the host may do in a second: a token bucket each for the bytes and the requests of each
//! direction.
//!
//! A request passes when all that came before it is paid for, and is charged then, however large it is: nothing has to be cut, and
//! the debt is bounded by the largest request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use securectr_vmm::spec::IoLimits;

/// How long a disk may have been idle to catch up afterwards.
const BURST: Duration = Duration::from_millis(100);
const NS_PER_S: u128 = 1_000_000_000;

/// What a request moves, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    Read(usize),
    Written(usize),
}

/// One bucket.
#[derive(Debug)]
struct Meter {
    /// A second.
    rate: u64,
    /// When all is paid for.
    paid_at: Instant,
}

impl Meter {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, paid_at: now }
    }

    fn wait(&self, now: Instant) -> Duration {
        self.paid_at.saturating_duration_since(now)
    }

    fn charge(&mut self, amount: usize, now: Instant) {
        let ns = amount as u128 * NS_PER_S / u128::from(self.rate.max(1));
        let price = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        let since = now.checked_sub(BURST).map_or(self.paid_at, |earliest| self.paid_at.max(earliest));
        // Where time itself ends, nothing more is charged.
        self.paid_at = since.checked_add(price).unwrap_or(since);
    }
}

/// The buckets of one direction; none without a limit.
#[derive(Debug)]
struct Direction {
    bytes: Option<Meter>,
    requests: Option<Meter>,
}

impl Direction {
    fn new(bytes: Option<u64>, requests: Option<u64>, now: Instant) -> Self {
        let meter = |rate: Option<u64>| rate.map(|rate| Meter::new(rate, now));
        Self { bytes: meter(bytes), requests: meter(requests) }
    }

    fn admit(&mut self, bytes: usize, now: Instant) -> Result<(), Duration> {
        let wait = |meter: &Option<Meter>| meter.as_ref().map_or(Duration::ZERO, |meter| meter.wait(now));
        let wait = wait(&self.bytes).max(wait(&self.requests));
        if wait > Duration::ZERO {
            return Err(wait);
        }
        for (meter, amount) in [(&mut self.bytes, bytes), (&mut self.requests, 1)] {
            meter.iter_mut().for_each(|meter| meter.charge(amount, now));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Throttle {
    read: Direction,
    written: Direction,
}

impl Throttle {
    pub(super) fn new(limits: &IoLimits, now: Instant) -> Self {
        Self {
            read: Direction::new(limits.read_bps, limits.read_iops, now),
            written: Direction::new(limits.write_bps, limits.write_iops, now),
        }
    }

    /// Charges a request that may be done now; for another one, how long it has to wait.
    pub(super) fn admit(&mut self, cost: Cost, now: Instant) -> Result<(), Duration> {
        match cost {
            Cost::Read(bytes) => self.read.admit(bytes, now),
            Cost::Written(bytes) => self.written.admit(bytes, now),
        }
    }
}

/// A throttle that several disks may have. Its lock is taken under that of a disk's transport, and no other under it.
#[derive(Clone, Debug)]
pub(crate) struct SharedThrottle(Arc<Mutex<Throttle>>);

impl SharedThrottle {
    pub(super) fn locked(&self) -> MutexGuard<'_, Throttle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that disks have.
#[derive(Debug, Default)]
pub(crate) struct Throttles(BTreeMap<IoLimits, Weak<Mutex<Throttle>>>);

impl Throttles {
    pub(crate) fn get(&mut self, limits: IoLimits) -> SharedThrottle {
        self.0.retain(|_, throttle| throttle.strong_count() > 0);
        if let Some(throttle) = self.0.get(&limits).and_then(Weak::upgrade) {
            return SharedThrottle(throttle);
        }
        let throttle = Arc::new(Mutex::new(Throttle::new(&limits, Instant::now())));
        self.0.insert(limits, Arc::downgrade(&throttle));
        SharedThrottle(throttle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: IoLimits = IoLimits {
        device: (8, 0),
        read_bps: Some(1000),
        write_bps: None,
        read_iops: None,
        write_iops: Some(10),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_request_waits_until_the_one_before_is_paid_for() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&LIMITS, start);
        assert_eq!(throttle.admit(Cost::Read(2000), start), Ok(()), "however large it is");
        let late = |after| throttle.admit(Cost::Read(1), start + after);
        assert_eq!([ms(0), ms(500)].map(late), [Err(ms(2000)), Err(ms(1500))]);
        assert_eq!(throttle.admit(Cost::Read(1), start + ms(2000)), Ok(()));
    }

    #[test]
    fn directions_and_kinds_of_limits_are_apart() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&LIMITS, start);
        throttle.admit(Cost::Read(1_000_000), start).unwrap();
        assert_eq!(
            throttle.admit(Cost::Written(1_000_000), start),
            Ok(()),
            "bytes that are written are free"
        );
        assert_eq!(throttle.admit(Cost::Written(0), start), Err(ms(100)), "requests are not");
    }

    #[test]
    fn no_more_passes_in_any_time_than_the_rate_and_a_burst() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&LIMITS, start);
        // Idle at first, which saves up no more than the burst.
        let began = start + ms(60_000);
        let mut passed = 0;
        for at in 0..10_000 {
            while throttle.admit(Cost::Read(10), began + ms(at)).is_ok() {
                passed += 10;
            }
        }
        assert!((10_000..=10_000 + 100 + 10).contains(&passed), "{passed}");
    }

    #[test]
    fn no_rate_and_no_size_is_too_much_to_reckon_with() {
        let start = Instant::now();
        let slow = IoLimits { read_bps: Some(1), read_iops: Some(u64::MAX), ..LIMITS };
        let mut throttle = Throttle::new(&slow, start);
        throttle.admit(Cost::Read(usize::MAX), start).unwrap();
        assert!(throttle.admit(Cost::Read(1), start + ms(1_000_000)).is_err());
    }

    #[test]
    fn disks_with_the_same_limits_share_them_as_long_as_one_has_them() {
        let mut throttles = Throttles::default();
        let (one, same) = (throttles.get(LIMITS), throttles.get(LIMITS));
        let other = throttles.get(IoLimits { device: (8, 16), ..LIMITS });
        assert!(Arc::ptr_eq(&one.0, &same.0) && !Arc::ptr_eq(&one.0, &other.0));
        one.locked().admit(Cost::Read(1_000_000), Instant::now()).unwrap();
        assert!(same.locked().admit(Cost::Read(1), Instant::now()).is_err());
        drop((one, same));
        assert_eq!(throttles.get(LIMITS).locked().admit(Cost::Read(1), Instant::now()), Ok(()));
    }
}
