//! What makes a guest a machine of its own, when it goes on with the memory of another: its random numbers and its clock.
//!
//! Nothing of a container runs before: there is none, or it stands still. Who runs in the guest by then is this program, which has drawn
//! no secret.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_settime};
use thiserror::Error;

use crate::sys;

const RANDOM: &str = "/dev/urandom";

/// As much as the kernel's generator wants before it counts as seeded (random(4)), in bytes.
const LEAST_ENTROPY: usize = 32;

/// A request carries no more than it needs.
const MOST_ENTROPY: usize = 512;

#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    #[error("the guest has begun already")]
    Begun,
    #[error("{0} bytes of entropy are too few, or too many")]
    EntropyLen(usize),
    #[error("open {RANDOM}")]
    Open(#[source] io::Error),
    #[error("seed the kernel's random numbers")]
    Seed(#[source] io::Error),
    #[error("set the clock")]
    Clock(#[source] io::Error),
}

/// Whether the guest has become one of its own, since its host has this connection.
#[derive(Clone, Default)]
pub(crate) struct Identity(Arc<AtomicBool>);

impl Identity {
    /// The time is that since 1970.
    pub(crate) fn begin(&self, time: Duration, entropy: &[u8]) -> Result<(), IdentityError> {
        if !(LEAST_ENTROPY..=MOST_ENTROPY).contains(&entropy.len()) {
            return Err(IdentityError::EntropyLen(entropy.len()));
        }
        if self.0.swap(true, Ordering::Relaxed) {
            return Err(IdentityError::Begun);
        }
        // First, since it tells the guest from all others.
        let random = File::options().write(true).open(RANDOM).map_err(IdentityError::Open)?;
        sys::reseed(&random, entropy).map_err(IdentityError::Seed)?;
        // Neither is beyond what the kernel counts in until 2262.
        let now = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        clock_settime(ClockId::Realtime, now).map_err(|errno| IdentityError::Clock(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_told_nothing_random_has_not_begun() {
        let identity = Identity::default();
        for len in [0, LEAST_ENTROPY - 1, MOST_ENTROPY + 1] {
            let refused = identity.begin(Duration::ZERO, &vec![1; len]);
            assert!(matches!(refused, Err(IdentityError::EntropyLen(refused)) if refused == len));
        }
        assert!(!identity.0.load(Ordering::Relaxed));
    }
}
