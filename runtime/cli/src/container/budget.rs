//! What a container may use up, held to from outside its guest: who has used up something of it is ended.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use securectr_sandbox::Sandbox;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::sleep};

use super::incarnation::cpu_time;

/// CPU time is not looked at more often.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// Nothing that is not named has a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Budget {
    /// From each start on.
    pub time: Option<Duration>,
    /// Of all CPUs together, from each start on; that of the whole machine counts.
    pub cpu_time: Option<Duration>,
    /// Standard output and errors together, from each start on.
    pub output_bytes: Option<u64>,
}

/// What was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    Time(Duration),
    CpuTime(Duration),
    Output(u64),
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(limit) => write!(f, "its time of {} s was over", limit.as_secs()),
            Self::CpuTime(limit) => write!(f, "its CPU time of {} s was used up", limit.as_secs()),
            Self::Output(limit) => write!(f, "its {limit} bytes of output were written"),
        }
    }
}

impl Budget {
    /// Answers when something of it is used up, which may be never. To be asked when the container starts.
    pub(crate) async fn spent(&self, sandbox: &Sandbox, meter: &Meter) -> Spent {
        tokio::select! {
            limit = passed(self.time) => Spent::Time(limit),
            limit = used(self.cpu_time, sandbox) => Spent::CpuTime(limit),
            limit = meter.is_over() => Spent::Output(limit),
        }
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter { limit: self.output_bytes, written: AtomicU64::new(0), over: Notify::new() }
    }
}

async fn passed(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

async fn used(limit: Option<Duration>, sandbox: &Sandbox) -> Duration {
    let Some(limit) = limit else { return std::future::pending().await };
    let pid = sandbox.vmm_pid().unsigned_abs();
    let before = cpu_time(pid).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    loop {
        // Of a machine that is gone its end is told elsewhere.
        let Some(now) = cpu_time(pid) else { return std::future::pending().await };
        let left = limit.saturating_sub(now.saturating_sub(before));
        if left.is_zero() {
            return limit;
        }
        // It cannot be used up sooner.
        sleep((left / u32::try_from(cpus).unwrap_or(1)).max(LEAST_PAUSE)).await;
    }
}

/// Counts a container's output.
pub(crate) struct Meter {
    limit: Option<u64>,
    written: AtomicU64,
    over: Notify,
}

impl Meter {
    /// How much of so many more bytes may be written.
    pub(super) fn take(&self, len: usize) -> usize {
        let Some(limit) = self.limit else { return len };
        let before = self.written.fetch_add(len as u64, Ordering::Relaxed);
        if before.saturating_add(len as u64) > limit {
            self.over.notify_one();
        }
        len.min(usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX))
    }

    async fn is_over(&self) -> u64 {
        match self.limit {
            Some(limit) => {
                self.over.notified().await;
                limit
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_taken_up_to_its_limit() {
        let meter = Budget { output_bytes: Some(10), ..Budget::default() }.meter();
        assert_eq!([meter.take(4), meter.take(6), meter.take(1), meter.take(9)], [4, 6, 0, 0]);
        let meter = Budget { output_bytes: Some(3), ..Budget::default() }.meter();
        assert_eq!([meter.take(5), meter.take(5)], [3, 0]);
        assert_eq!(Budget::default().meter().take(usize::MAX), usize::MAX);
    }
}
