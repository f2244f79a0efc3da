//! The machine has as many vCPUs as it may ever need, but boots with one. The others come online when the host says that containers
//! need them, and stay: a limit is the cgroup's business. One lock, never held across an await.

use std::{
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use crate::reaper::{ExitWatch, Reaper, outcome};

const DIRECTORY: &str = "/sys/devices/system/cpu";

#[derive(Debug, Error)]
pub(crate) enum CpuError {
    #[error("read which CPUs are present")]
    Present(#[source] io::Error),
    #[error("begin to bring CPUs online")]
    Begin(#[source] io::Error),
    #[error("bring CPUs online")]
    Online(#[source] io::Error),
}

#[derive(Clone)]
pub(crate) struct Cpus {
    reaper: Reaper,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// How many have been brought online, or are on their way.
    count: u32,
    /// The processes that bring some online.
    coming: Vec<ExitWatch>,
}

impl Cpus {
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self { reaper, state: Arc::default() }
    }

    /// Begins to bring so many online, of those that are there. Each takes a while, in which the container is made: so that is done
    /// by a process of its own.
    pub(crate) fn bring_online(&self, count: u32) -> Result<(), CpuError> {
        let mut state = self.lock();
        // The first is online.
        let before = state.count.max(1);
        if count <= before {
            return Ok(());
        }
        let present = fs::read_to_string(format!("{DIRECTORY}/present")).map_err(CpuError::Present)?;
        let count = present_count(&present).min(count);
        let coming = self.reaper.apart(|| (before..count).try_for_each(bring_one_online));
        state.coming.push(coming.map_err(CpuError::Begin)?);
        state.count = count;
        Ok(())
    }

    /// Waits for what was begun: many programs count the CPUs once, when they start.
    pub(crate) async fn online(&self) -> Result<(), CpuError> {
        let coming = self.lock().coming.clone();
        let mut result = Ok(());
        for process in coming {
            result = outcome(process).await.map_err(CpuError::Online).and(result);
        }
        self.lock().coming.retain(|process| process.borrow().is_none());
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bring_one_online(number: u32) -> io::Result<()> {
    // Without such a file the CPU cannot be taken off, so it is there. Writing what is there already changes nothing.
    match fs::write(format!("{DIRECTORY}/cpu{number}/online"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
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
    fn one_cpu_is_there_already() {
        let cpus = Cpus::new(Reaper::default());
        cpus.bring_online(1).unwrap();
        cpus.bring_online(0).unwrap();
        assert!(cpus.lock().coming.is_empty());
    }
}
