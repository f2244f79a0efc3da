//! The machine has as many vCPUs as it may ever need, but boots with one. The others come online when containers need them,
//! and stay: a limit is the cgroup's business.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use thiserror::Error;

const DIRECTORY: &str = "/sys/devices/system/cpu";

#[derive(Debug, Error)]
pub(crate) enum CpuError {
    #[error("read which CPUs are present")]
    Present(#[source] io::Error),
    #[error("bring CPU {number} online")]
    Online { number: u32, source: io::Error },
}

/// How many CPUs all containers together may use at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpus(Arc<AtomicU32>);

impl Cpus {
    /// Brings online what another container needs: so many, or all.
    pub(crate) fn bring_online(&self, count: Option<u32>) -> Result<(), CpuError> {
        let count = count.unwrap_or(u32::MAX);
        let before =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(count)));
        let needed = before.unwrap_or(u32::MAX).saturating_add(count);
        if needed <= 1 {
            return Ok(());
        }
        let present = fs::read_to_string(format!("{DIRECTORY}/present")).map_err(CpuError::Present)?;
        (1..present_count(&present).min(needed)).try_for_each(one)
    }
}

fn one(number: u32) -> Result<(), CpuError> {
    let file = format!("{DIRECTORY}/cpu{number}/online");
    // Writing what is there already changes nothing. Without such a file the CPU cannot be taken off, so it is there.
    match fs::write(file, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(|source| CpuError::Online { number, source }),
    }
}

/// From a list as "0" or "0-3"; the machine has no holes.
fn present_count(list: &str) -> u32 {
    let last = list.trim().rsplit(['-', ',']).next().unwrap_or_default();
    last.parse::<u32>().map_or(1, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_cpus_are_counted() {
        for (list, count) in [("0\n", 1), ("0-3\n", 4), ("0-1,3\n", 4), ("", 1), ("x", 1)] {
            assert_eq!(present_count(list), count, "{list:?}");
        }
    }

    #[test]
    fn one_container_of_one_cpu_needs_no_other() {
        Cpus::default().bring_online(Some(1)).unwrap();
    }
}
