//! Resources as what is to be written into which file of a cgroup (cgroup v2), and who may use which device.

use super::{PlanError, refuse_unless};
use crate::spec;

#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// File and content, in the order in which they are to be written.
    pub files: Vec<(String, String)>,
    /// Later rules outrank earlier ones.
    pub devices: Vec<DeviceRule>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum DeviceKind {
    Character,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceRule {
    pub allow: bool,
    /// Unset: both.
    pub kind: Option<DeviceKind>,
    /// Unset: every number.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// `BPF_DEVCG_ACC_*`: 1 is mknod, 2 is read, 4 is write.
    pub access: u32,
}

pub(crate) fn plan(resources: spec::Resources) -> Result<Limits, PlanError> {
    let mut limits = Limits::default();
    if let Some(memory) = &resources.memory {
        memory_files(memory, &mut limits)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu_files(cpu, &mut limits)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        limits.write("pids.max", if limit > 0 { limit.to_string() } else { "max".to_owned() });
    }
    if let Some(block_io) = &resources.block_io {
        block_io_files(block_io, &mut limits)?;
    }
    for limit in &resources.hugepage_limits {
        hugepage_file(limit, &mut limits)?;
    }
    let has_network =
        resources.network.is_some_and(|net| net.class_id.unwrap_or(0) != 0 || !net.priorities.is_empty());
    refuse_unless(!has_network, "linux.resources.network")?;
    refuse_unless(resources.rdma.is_empty(), "linux.resources.rdma")?;
    for (file, value) in resources.unified {
        unified_file(file, value, &mut limits)?;
    }
    limits.devices = resources.devices.iter().map(device_rule).collect::<Result<_, _>>()?;
    Ok(limits)
}

impl Limits {
    fn write(&mut self, file: &str, value: impl Into<String>) {
        self.files.push((file.to_owned(), value.into()));
    }
}

/// Bytes, or no limit.
fn bytes(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// In the spec 0 stands for "not set".
fn set(value: Option<i64>) -> Option<i64> {
    value.filter(|&value| value != 0)
}

fn memory_files(memory: &spec::Memory, limits: &mut Limits) -> Result<(), PlanError> {
    refuse_unless(memory.kernel.unwrap_or(-1) <= 0, "linux.resources.memory.kernel")?;
    refuse_unless(memory.kernel_tcp.unwrap_or(-1) <= 0, "linux.resources.memory.kernelTCP")?;
    refuse_unless(memory.swappiness.is_none(), "linux.resources.memory.swappiness")?;
    refuse_unless(!memory.disable_oom_killer, "linux.resources.memory.disableOOMKiller")?;
    if let Some(swap) = set(memory.swap) {
        // The spec counts memory and swap together, the kernel apart.
        let alone = match set(memory.limit) {
            _ if swap < 0 => "max".to_owned(),
            Some(limit) if (0..=swap).contains(&limit) => (swap - limit).to_string(),
            _ => {
                let value = swap.to_string();
                return Err(PlanError::Invalid { property: "linux.resources.memory.swap", value });
            }
        };
        limits.write("memory.swap.max", alone);
    }
    if let Some(limit) = set(memory.limit) {
        limits.write("memory.max", bytes(limit));
    }
    if let Some(reservation) = set(memory.reservation) {
        limits.write("memory.low", bytes(reservation));
    }
    Ok(())
}

/// The kernel's default period, in microseconds.
pub(super) const DEFAULT_PERIOD_US: u64 = 100_000;

fn cpu_files(cpu: &spec::Cpu, limits: &mut Limits) -> Result<(), PlanError> {
    refuse_unless(cpu.realtime_runtime.unwrap_or(0) == 0, "linux.resources.cpu.realtimeRuntime")?;
    refuse_unless(cpu.realtime_period.unwrap_or(0) == 0, "linux.resources.cpu.realtimePeriod")?;
    if let Some(idle) = cpu.idle {
        limits.write("cpu.idle", idle.to_string());
    }
    // An idle group has the least weight, and takes no other.
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle.unwrap_or(0) == 0) {
        limits.write("cpu.weight", cpu_weight(shares).to_string());
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = set(cpu.quota).filter(|quota| !quota.is_negative());
        let period = cpu.period.filter(|&period| period != 0).unwrap_or(DEFAULT_PERIOD_US);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        limits.write("cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst {
        limits.write("cpu.max.burst", burst.to_string());
    }
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            limits.write(file, list.as_str());
        }
    }
    Ok(())
}

/// From shares (2 to 262144, 1024 is usual) to weight (1 to 10000, 100 is usual), on the line through both ends as runc has it.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn block_io_files(block_io: &spec::BlockIo, limits: &mut Limits) -> Result<(), PlanError> {
    let has_leaf = |weight: Option<u16>| weight.unwrap_or(0) != 0;
    refuse_unless(!has_leaf(block_io.leaf_weight), "linux.resources.blockIO.leafWeight")?;
    if let Some(weight) = block_io.weight.filter(|&weight| weight != 0) {
        limits.write("io.weight", format!("default {}", io_weight(weight)));
    }
    for device in &block_io.weight_device {
        refuse_unless(!has_leaf(device.leaf_weight), "linux.resources.blockIO.weightDevice.leafWeight")?;
        if let Some(weight) = device.weight.filter(|&weight| weight != 0) {
            let value = format!("{}:{} {}", device.major, device.minor, io_weight(weight));
            limits.write("io.weight", value);
        }
    }
    let throttles = [
        ("rbps", &block_io.throttle_read_bps_device),
        ("wbps", &block_io.throttle_write_bps_device),
        ("riops", &block_io.throttle_read_iops_device),
        ("wiops", &block_io.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
            limits.write("io.max", format!("{}:{} {key}={rate}", device.major, device.minor));
        }
    }
    Ok(())
}

/// From the weight of cgroup v1 (10 to 1000) to that of v2 (1 to 10000), as runc has it.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

fn hugepage_file(limit: &spec::HugepageLimit, limits: &mut Limits) -> Result<(), PlanError> {
    let is_size =
        limit.page_size.ends_with('B') && limit.page_size.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_size {
        let property = "linux.resources.hugepageLimits.pageSize";
        return Err(PlanError::Invalid { property, value: limit.page_size.clone() });
    }
    limits.write(&format!("hugetlb.{}.max", limit.page_size), limit.limit.to_string());
    Ok(())
}

/// Only files of controllers: `cgroup.*` would let a container move or hide itself.
fn unified_file(file: String, value: String, limits: &mut Limits) -> Result<(), PlanError> {
    const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];
    let is_known = file.split_once('.').is_some_and(|(controller, _)| CONTROLLERS.contains(&controller));
    if !is_known || !file.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c)) {
        return Err(PlanError::Invalid { property: "linux.resources.unified", value: file });
    }
    limits.files.push((file, value));
    Ok(())
}

fn device_rule(rule: &spec::DeviceRule) -> Result<DeviceRule, PlanError> {
    let kind = match rule.kind.as_deref().unwrap_or("a") {
        "a" | "" => None,
        "c" | "u" => Some(DeviceKind::Character),
        "b" => Some(DeviceKind::Block),
        other => {
            let property = "linux.resources.devices.type";
            return Err(PlanError::Invalid { property, value: other.to_owned() });
        }
    };
    let mut access = 0;
    for letter in rule.access.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm").chars() {
        access |= match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            other => {
                let property = "linux.resources.devices.access";
                return Err(PlanError::Invalid { property, value: other.to_string() });
            }
        };
    }
    // Negative numbers are wildcards.
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    Ok(DeviceRule { allow: rule.allow, kind, major: number(rule.major), minor: number(rule.minor), access })
}
