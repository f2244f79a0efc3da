//! What a container uses, in the form that the host's cgroups would tell it: clients expect the one or the other.

use std::path::Path;

use containerd_shim_protos::{
    cgroups::metrics as v1,
    cgroups_v2::metrics as v2,
    protobuf::{self, MessageDyn, MessageFull, well_known_types::any::Any},
};
use securectr_sandbox::{IoStats, Stats};

/// Lies where cgroup v2 is mounted (cgroups(7)).
const V2_MARK: &str = "/sys/fs/cgroup/cgroup.controllers";

const NS_PER_US: u64 = 1000;

pub(crate) fn metrics(stats: &Stats) -> protobuf::Result<Any> {
    if Path::new(V2_MARK).exists() { any(&of_v2(stats)) } else { any(&of_v1(stats)) }
}

fn any(metrics: &impl MessageFull) -> protobuf::Result<Any> {
    let type_url = metrics.descriptor_dyn().full_name().to_owned();
    Ok(Any { type_url, value: metrics.write_to_bytes()?, ..Default::default() })
}

fn of_v2(stats: &Stats) -> v2::Metrics {
    let cpu = v2::CPUStat {
        usage_usec: stats.cpu.usage_us,
        user_usec: stats.cpu.user_us,
        system_usec: stats.cpu.system_us,
        nr_periods: stats.cpu.periods,
        nr_throttled: stats.cpu.throttled_periods,
        throttled_usec: stats.cpu.throttled_us,
        ..Default::default()
    };
    let pids = v2::PidsStat {
        current: stats.pids.current,
        limit: none_is_zero(stats.pids.limit),
        ..Default::default()
    };
    let events = v2::MemoryEvents {
        high: stats.memory.high_events,
        max: stats.memory.max_events,
        oom: stats.memory.oom_events,
        oom_kill: stats.memory.oom_kills,
        ..Default::default()
    };
    let io = v2::IOStat { usage: stats.io.iter().map(io_of_v2).collect(), ..Default::default() };
    v2::Metrics {
        pids: Some(pids).into(),
        cpu: Some(cpu).into(),
        memory: Some(memory_of_v2(stats)).into(),
        io: Some(io).into(),
        memory_events: Some(events).into(),
        ..Default::default()
    }
}

fn memory_of_v2(stats: &Stats) -> v2::MemoryStat {
    let of = |key: &str| stats.memory.stat.get(key).copied().unwrap_or_default();
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        usage: stats.memory.usage,
        usage_limit: stats.memory.limit,
        max_usage: stats.memory.peak,
        swap_usage: stats.memory.swap_usage,
        swap_limit: stats.memory.swap_limit,
        ..Default::default()
    }
}

fn io_of_v2(io: &IoStats) -> v2::IOEntry {
    v2::IOEntry {
        major: io.major.into(),
        minor: io.minor.into(),
        rbytes: io.read_bytes,
        wbytes: io.written_bytes,
        rios: io.reads,
        wios: io.writes,
        ..Default::default()
    }
}

fn of_v1(stats: &Stats) -> v1::Metrics {
    let usage = v1::CPUUsage {
        total: stats.cpu.usage_us * NS_PER_US,
        kernel: stats.cpu.system_us * NS_PER_US,
        user: stats.cpu.user_us * NS_PER_US,
        ..Default::default()
    };
    let throttling = v1::Throttle {
        periods: stats.cpu.periods,
        throttled_periods: stats.cpu.throttled_periods,
        throttled_time: stats.cpu.throttled_us * NS_PER_US,
        ..Default::default()
    };
    let cpu =
        v1::CPUStat { usage: Some(usage).into(), throttling: Some(throttling).into(), ..Default::default() };
    let pids = v1::PidsStat {
        current: stats.pids.current,
        limit: none_is_zero(stats.pids.limit),
        ..Default::default()
    };
    let oom = v1::MemoryOomControl { oom_kill: stats.memory.oom_kills, ..Default::default() };
    let blkio = v1::BlkIOStat {
        io_service_bytes_recursive: stats.io.iter().flat_map(io_bytes_of_v1).collect(),
        ..Default::default()
    };
    v1::Metrics {
        pids: Some(pids).into(),
        cpu: Some(cpu).into(),
        memory: Some(memory_of_v1(stats)).into(),
        blkio: Some(blkio).into(),
        memory_oom_control: Some(oom).into(),
        ..Default::default()
    }
}

fn memory_of_v1(stats: &Stats) -> v1::MemoryStat {
    let of = |key: &str| stats.memory.stat.get(key).copied().unwrap_or_default();
    let usage = v1::MemoryEntry {
        limit: stats.memory.limit,
        usage: stats.memory.usage,
        max: stats.memory.peak,
        ..Default::default()
    };
    let swap = v1::MemoryEntry {
        limit: stats.memory.swap_limit,
        usage: stats.memory.swap_usage,
        ..Default::default()
    };
    v1::MemoryStat {
        cache: of("file"),
        rss: of("anon"),
        mapped_file: of("file_mapped"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        // kubelet and docker take these for what can be given back.
        total_cache: of("file"),
        total_rss: of("anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        usage: Some(usage).into(),
        swap: Some(swap).into(),
        ..Default::default()
    }
}

fn io_bytes_of_v1(io: &IoStats) -> [v1::BlkIOEntry; 2] {
    let entry = |op: &str, value| v1::BlkIOEntry {
        op: op.to_owned(),
        major: io.major.into(),
        minor: io.minor.into(),
        value,
        ..Default::default()
    };
    [entry("Read", io.read_bytes), entry("Write", io.written_bytes)]
}

/// containerd's own shim says 0 for "no limit".
fn none_is_zero(limit: u64) -> u64 {
    if limit == u64::MAX { 0 } else { limit }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use securectr_sandbox::{CpuStats, MemoryStats};

    use super::*;

    fn stats() -> Stats {
        let stat = HashMap::from([("inactive_file".to_owned(), 7), ("anon".to_owned(), 5)]);
        let memory = MemoryStats { usage: 100, limit: 200, stat, ..Default::default() };
        let cpu = CpuStats { usage_us: 3, ..Default::default() };
        Stats { memory, cpu, ..Default::default() }
    }

    #[test]
    fn both_forms_tell_the_working_set() {
        let (one, two) = (of_v1(&stats()), of_v2(&stats()));
        assert_eq!((one.memory.usage.usage, one.memory.total_inactive_file), (100, 7));
        assert_eq!((two.memory.usage, two.memory.inactive_file, two.memory.usage_limit), (100, 7, 200));
    }

    #[test]
    fn each_form_has_its_unit_and_its_name() {
        assert_eq!(of_v1(&stats()).cpu.usage.total, 3000);
        assert_eq!(of_v2(&stats()).cpu.usage_usec, 3);
        assert_eq!(any(&of_v1(&stats())).unwrap().type_url, "io.containerd.cgroups.v1.Metrics");
        assert_eq!(any(&of_v2(&stats())).unwrap().type_url, "io.containerd.cgroups.v2.Metrics");
    }
}
