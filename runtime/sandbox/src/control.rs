//! A container as a whole while it lives: stopped and let go on, measured, and given other limits.

use std::collections::HashMap;

use oci_spec::runtime::LinuxResources;
use securectr_protocol::agent::{self, StatsResponse};
use serde::{Deserialize, Serialize};

use crate::{Sandbox, SandboxError, SandboxId};

/// What a container uses. Counters never go back; bytes, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub io: Vec<IoStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuStats {
    pub usage_us: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_us: u64,
}

/// In bytes; the largest number is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStats {
    pub usage: u64,
    pub limit: u64,
    pub peak: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    /// The lines of cgroup v2's `memory.stat`.
    pub stat: HashMap<String, u64>,
    /// Counters of `memory.events`.
    pub high_events: u64,
    pub max_events: u64,
    pub oom_events: u64,
    pub oom_kills: u64,
}

/// The largest number is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: u64,
    pub limit: u64,
}

/// Of one block device of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IoStats {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// A hostile agent's lists end here.
const MOST_ENTRIES: usize = 256;

impl Sandbox {
    /// Returns when the guest has answered.
    pub async fn ping(&self) -> Result<(), SandboxError> {
        self.ask("hear from the guest", self.agent().ping()).await
    }

    /// Lets the guest give up what its kernel only keeps for later. The host has it back within seconds.
    pub async fn reclaim(&self) -> Result<(), SandboxError> {
        self.ask("reclaim the guest's memory", self.agent().reclaim()).await
    }

    /// Stops all processes of a container where they are.
    pub async fn pause(&self, container: &SandboxId) -> Result<(), SandboxError> {
        self.ask("pause the container", self.agent().pause(container.as_str())).await
    }

    /// Lets them go on.
    pub async fn resume(&self, container: &SandboxId) -> Result<(), SandboxError> {
        self.ask("resume the container", self.agent().resume(container.as_str())).await
    }

    /// Changes the limits that are named; the others stay. The machine is as large as they need before they hold, and may shrink
    /// afterwards.
    pub async fn update(&self, container: &SandboxId, limits: &LinuxResources) -> Result<(), SandboxError> {
        let json = serde_json::to_vec(limits).map_err(SandboxError::Describe)?;
        let update = |vcpu_count| {
            self.ask("update the container", self.agent().update(container.as_str(), json, vcpu_count))
        };
        self.change_room(container, limits, update).await
    }

    pub async fn stats(&self, container: &SandboxId) -> Result<Stats, SandboxError> {
        self.ask("measure the container", self.agent().stats(container.as_str())).await.map(stats)
    }

    /// Waits until the guest's kernel has killed more processes of the container for want of memory than were `seen`, and says how
    /// many there are.
    pub async fn out_of_memory(&self, container: &SandboxId, seen: u64) -> Result<u64, SandboxError> {
        self.ask("watch the container's memory", self.agent().wait_oom(container.as_str(), seen)).await
    }
}

fn stats(said: StatsResponse) -> Stats {
    let (cpu, memory) = (said.cpu.unwrap_or_default(), said.memory.unwrap_or_default());
    let pids = said.pids.unwrap_or_default();
    Stats {
        cpu: CpuStats {
            usage_us: cpu.usage_usec,
            user_us: cpu.user_usec,
            system_us: cpu.system_usec,
            periods: cpu.nr_periods,
            throttled_periods: cpu.nr_throttled,
            throttled_us: cpu.throttled_usec,
        },
        memory: MemoryStats {
            usage: memory.usage,
            limit: memory.limit,
            peak: memory.peak,
            swap_usage: memory.swap_usage,
            swap_limit: memory.swap_limit,
            high_events: memory.events_high,
            max_events: memory.events_max,
            oom_events: memory.events_oom,
            oom_kills: memory.events_oom_kill,
            stat: memory.stat.into_iter().take(MOST_ENTRIES).collect(),
        },
        pids: PidsStats { current: pids.current, limit: pids.limit },
        io: said.io.iter().take(MOST_ENTRIES).map(io).collect(),
    }
}

fn io(said: &agent::IoStats) -> IoStats {
    IoStats {
        major: said.major,
        minor: said.minor,
        read_bytes: said.rbytes,
        written_bytes: said.wbytes,
        reads: said.rios,
        writes: said.wios,
    }
}
