//! What a machine costs the host: the counters of its cgroup (the kernel's Documentation/admin-guide/cgroup-v2.rst).

use std::{collections::HashMap, fs, io, path::Path};

use super::HostCgroup;
use crate::control::{CpuStats, MemoryStats, PidsStats, Stats};

impl HostCgroup {
    /// Of the containers' keeper, their machine, and its file server together. What the kernel does not count here is 0.
    pub fn stats(&self) -> io::Result<Stats> {
        let pids =
            PidsStats { current: number(&self.0, "pids.current")?, limit: limit(&self.0, "pids.max")? };
        Ok(Stats { cpu: cpu(&self.0)?, memory: memory(&self.0)?, pids, io: Vec::new() })
    }
}

fn cpu(group: &Path) -> io::Result<CpuStats> {
    let counters = counters(group, "cpu.stat")?;
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    Ok(CpuStats {
        usage_us: of("usage_usec"),
        user_us: of("user_usec"),
        system_us: of("system_usec"),
        periods: of("nr_periods"),
        throttled_periods: of("nr_throttled"),
        throttled_us: of("throttled_usec"),
    })
}

fn memory(group: &Path) -> io::Result<MemoryStats> {
    let events = counters(group, "memory.events")?;
    let event = |name: &str| events.get(name).copied().unwrap_or_default();
    Ok(MemoryStats {
        usage: number(group, "memory.current")?,
        limit: limit(group, "memory.max")?,
        peak: number(group, "memory.peak")?,
        swap_usage: number(group, "memory.swap.current")?,
        swap_limit: limit(group, "memory.swap.max")?,
        stat: counters(group, "memory.stat")?,
        high_events: event("high"),
        max_events: event("max"),
        oom_events: event("oom"),
        oom_kills: event("oom_kill"),
    })
}

/// Nothing in a file that is not there: its controller is off, or the kernel has no such counter.
fn text(group: &Path, file: &str) -> io::Result<String> {
    match fs::read_to_string(group.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn number(group: &Path, file: &str) -> io::Result<u64> {
    Ok(text(group, file)?.trim().parse().unwrap_or_default())
}

/// "max" is no limit.
fn limit(group: &Path, file: &str) -> io::Result<u64> {
    Ok(text(group, file)?.trim().parse().unwrap_or(u64::MAX))
}

fn counters(group: &Path, file: &str) -> io::Result<HashMap<String, u64>> {
    let text = text(group, file)?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_files_are_read_and_those_that_are_not_there_are_nothing() {
        let group = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 7\nfile 8\n"),
            ("memory.events", "oom_kill 1\n"),
            ("pids.current", "3\n"),
            ("pids.max", "100\n"),
        ] {
            fs::write(group.path().join(file), content).unwrap();
        }
        let stats = HostCgroup(group.path().to_owned()).stats().unwrap();
        assert_eq!((stats.cpu.usage_us, stats.cpu.user_us, stats.cpu.system_us), (30, 20, 10));
        assert_eq!((stats.memory.usage, stats.memory.limit, stats.memory.oom_kills), (4096, u64::MAX, 1));
        assert_eq!((stats.memory.stat.get("anon"), stats.memory.swap_usage), (Some(&7), 0));
        assert_eq!((stats.pids.current, stats.pids.limit), (3, 100));
    }
}
