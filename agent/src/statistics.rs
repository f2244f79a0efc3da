//! What a container uses, and the guest as a whole: the kernel's own counters. All of it is read at once; nothing here waits.

use std::{collections::HashMap, fs};

use securectr_protocol::agent::{CpuStats, GuestStats, IoStats, MemoryStats, PidsStats, StatsResponse};

use crate::cgroup::{Cgroup, CgroupError, value};

/// In a limit: there is none.
const NONE: u64 = u64::MAX;

/// A file that the kernel does not have counts nothing.
pub(crate) fn of(cgroup: &Cgroup) -> Result<StatsResponse, CgroupError> {
    // Every group has this one, so without it the group has gone.
    let cpu = cpu(&cgroup.read("cpu.stat")?);
    let number = |file: &str| cgroup.read_if_there(file).trim().parse().unwrap_or(0);
    let limit = |file: &str| cgroup.read_if_there(file).trim().parse().unwrap_or(NONE);
    let events = cgroup.read_if_there("memory.events");
    let event = |key| value(&events, key).unwrap_or(0);
    let memory = MemoryStats {
        usage: number("memory.current"),
        limit: limit("memory.max"),
        peak: number("memory.peak"),
        swap_usage: number("memory.swap.current"),
        swap_limit: limit("memory.swap.max"),
        stat: pairs(&cgroup.read_if_there("memory.stat")),
        events_high: event("high"),
        events_max: event("max"),
        events_oom: event("oom"),
        events_oom_kill: event("oom_kill"),
        ..Default::default()
    };
    let pids = PidsStats { current: number("pids.current"), limit: limit("pids.max"), ..Default::default() };
    Ok(StatsResponse {
        cpu: Some(cpu).into(),
        memory: Some(memory).into(),
        pids: Some(pids).into(),
        io: cgroup.read_if_there("io.stat").lines().filter_map(io).collect(),
        guest: Some(guest(&fs::read_to_string("/proc/meminfo").unwrap_or_default())).into(),
        ..Default::default()
    })
}

fn cpu(text: &str) -> CpuStats {
    let number = |key| value(text, key).unwrap_or(0);
    CpuStats {
        usage_usec: number("usage_usec"),
        user_usec: number("user_usec"),
        system_usec: number("system_usec"),
        nr_periods: number("nr_periods"),
        nr_throttled: number("nr_throttled"),
        throttled_usec: number("throttled_usec"),
        ..Default::default()
    }
}

fn pairs(text: &str) -> HashMap<String, u64> {
    let pair = |line: &str| {
        let (key, number) = line.split_once(' ')?;
        Some((key.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// From a line as "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0", in any order and with more.
fn io(line: &str) -> Option<IoStats> {
    let (device, counters) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut io = IoStats { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
    for (key, number) in counters.split(' ').filter_map(|counter| counter.split_once('=')) {
        let field = match key {
            "rbytes" => &mut io.rbytes,
            "wbytes" => &mut io.wbytes,
            "rios" => &mut io.rios,
            "wios" => &mut io.wios,
            "dbytes" => &mut io.dbytes,
            "dios" => &mut io.dios,
            _ => continue,
        };
        *field = number.parse().unwrap_or(0);
    }
    Some(io)
}

/// From lines as "MemTotal:  16384 kB".
fn guest(meminfo: &str) -> GuestStats {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
    };
    GuestStats {
        mem_total: bytes("MemTotal").unwrap_or(0),
        mem_available: bytes("MemAvailable").unwrap_or(0),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_by_name() {
        let cpu = cpu("usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\nnr_periods 3\n");
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (30, 20, 10));
        assert_eq!((cpu.nr_periods, cpu.nr_throttled), (3, 0));
        assert_eq!(pairs("anon 1\nfile 2\nodd\n"), [("anon".into(), 1), ("file".into(), 2)].into());
    }

    #[test]
    fn each_device_has_its_counters() {
        let first = io("254:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.vrate=100.00").unwrap();
        assert_eq!((first.major, first.minor), (254, 16));
        assert_eq!((first.rbytes, first.wbytes, first.rios), (1, 2, 3));
        assert_eq!((first.wios, first.dbytes, first.dios), (4, 5, 6));
        // A device that was never used has no counters, one without a number is none.
        assert_eq!(io("7:0 \n").map(|io| io.rbytes), Some(0));
        assert_eq!(io("total rbytes=1"), None);
    }

    #[test]
    fn the_guests_memory_is_in_bytes() {
        let guest = guest("MemTotal:         100 kB\nMemFree: 1 kB\nMemAvailable:     50 kB\n");
        assert_eq!((guest.mem_total, guest.mem_available), (102_400, 51_200));
    }
}
