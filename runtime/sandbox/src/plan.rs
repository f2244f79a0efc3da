//! From a bundle and settings to what is to be done. Pure: nothing here opens, reads or asks.

use std::path::PathBuf;

use nix::sys::sysinfo::sysinfo;
use oci_spec::runtime::{LinuxCpu, LinuxResources, Spec};
use securectr_vmm::spec::HOTPLUG_CHUNK_MIB;
use serde::Serialize;
use thiserror::Error;

use crate::{
    BlockDevice, GivenFile, IoLimits, NetworkPlan, SandboxId, Scope, Share, devices, guest_spec, io_limits,
    shares,
};

pub(crate) const MIB: u64 = 1024 * 1024;

/// What the guest's kernel and agent need beside the container, in MiB.
pub(crate) const GUEST_OVERHEAD_MIB: u64 = 64;

/// Containers below this are refused, as by docker, in bytes.
const LEAST_MEMORY: u64 = 6 * MIB;

/// Above this the guest's memory map would be absurd, in bytes.
const MOST_MEMORY: u64 = 1024 * 1024 * MIB;

/// As many vCPUs as the guest kernel is built for.
const MOST_VCPUS: u64 = 64;

/// More vCPUs than this are given only when asked for.
const DEFAULT_MOST_VCPUS: usize = 8;

/// The kernel's, of quotas, in microseconds.
pub(crate) const DEFAULT_PERIOD_US: u64 = 100_000;

/// What the host decides where the bundle says nothing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory of a guest whose container has no limit.
    pub default_memory_mib: u32,
    /// What a guest's memory may grow to while it runs.
    pub most_memory_mib: u32,
    /// vCPUs of a guest whose container has no quota.
    pub default_vcpu_count: u8,
    /// What a guest's vCPUs may become while it runs, if it is not started with more.
    pub most_vcpu_count: u8,
    /// Let the guest's kernel speak on its console.
    pub verbose_console: bool,
    /// Where the guest's interfaces lead; without, it has its loopback.
    pub network: Option<NetworkPlan>,
}

impl Settings {
    /// For the CPUs of this host.
    pub fn with_memory_mib(default_memory_mib: u32) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let default_vcpu_count = cpus.min(DEFAULT_MOST_VCPUS) as u8;
        Self {
            default_memory_mib,
            most_memory_mib: most_memory_mib(),
            default_vcpu_count,
            // Each costs a start some time. A limit can be raised on a host with one CPU, too, where it is a promise.
            most_vcpu_count: default_vcpu_count.max(2),
            verbose_console: false,
            network: None,
        }
    }
}

/// Where what a container writes goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Writable {
    /// Nowhere: its root is read-only.
    Nothing,
    /// The guest's memory, at most so much.
    Memory { bytes: u64 },
    /// A private sparse disk.
    Disk,
    /// The root itself, which is a directory of the host.
    InPlace,
}

/// What a container's root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// The image on the sandbox's disk.
    Image,
    /// A directory of the host, a mount of containerd's snapshotters say; what is mounted in it is part of it. Absolute. While
    /// the container lives, nobody else changes anything in it.
    Directory(PathBuf),
}

/// What is asked for: a container as an OCI bundle describes it, and what a bundle has no words for.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its `root.path` is ignored.
    pub spec: Spec,
    pub root: RootSource,
    pub writable: Writable,
    pub scope: Scope,
    pub files: Vec<GivenFile>,
}

/// All that a sandbox with its first container is.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub id: SandboxId,
    pub machine: MachinePlan,
    pub container: ContainerPlan,
}

/// The microVM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachinePlan {
    pub memory_mib: u32,
    /// How much may be added while it runs.
    pub hotplug_mib: u32,
    /// What it has at least as long as one of its containers has no limit.
    pub unlimited_mib: u32,
    /// What it boots with.
    pub vcpu_count: u8,
    /// What it has when one of its containers has no quota.
    pub unlimited_vcpu_count: u8,
    /// What it may have while it runs.
    pub most_vcpu_count: u8,
    pub command_line: String,
    pub network: Option<NetworkPlan>,
    /// It has a file server.
    pub has_shares: bool,
    /// How many block devices its containers can have.
    pub device_places: u8,
}

/// One container in it.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerPlan {
    pub id: SandboxId,
    /// As the guest is to carry it out.
    pub spec: Spec,
    /// The name of the share that is its root; none when that is the image.
    pub root_share: Option<String>,
    pub writable: Writable,
    pub shares: Vec<Share>,
    pub block_devices: Vec<BlockDevice>,
    /// What its disks may do in a second, by the host's devices.
    pub io_limits: Vec<IoLimits>,
    /// Laid over what the image has.
    pub files: Vec<GivenFile>,
}

#[derive(Debug, Error, PartialEq)]
pub enum PlanError {
    #[error("the bundle has no process to run")]
    NoProcess,
    #[error("{0} cannot be had in a guest")]
    Unsupported(&'static str),
    #[error("{property} cannot be {value:?}")]
    Invalid { property: &'static str, value: String },
    #[error("an image cannot be written in place")]
    ImageInPlace,
    #[error("a memory limit of {asked} bytes is too small: the least is {LEAST_MEMORY} bytes (6 MiB)")]
    MemoryTooSmall { asked: u64 },
    #[error("a memory limit of {asked} bytes is too large: the most is {MOST_MEMORY} bytes (1 TiB)")]
    MemoryTooLarge { asked: u64 },
    #[error("a CPU limit of {asked} CPUs is too large: the most is {MOST_VCPUS}")]
    TooManyCpus { asked: u64 },
    #[error("a CPU quota of {quota} in a period of {period} microseconds makes no sense")]
    CpuQuota { quota: i64, period: u64 },
    #[error("{asked} block devices are too many: the most is {}", devices::MAX_BLOCK_DEVICES)]
    TooManyBlockDevices { asked: usize },
}

impl MachinePlan {
    /// A machine that has no container yet.
    pub fn bare(settings: &Settings) -> Self {
        let memory_mib = settings.default_memory_mib;
        Self {
            memory_mib,
            hotplug_mib: hotplug_mib(memory_mib, settings),
            unlimited_mib: memory_mib,
            vcpu_count: settings.default_vcpu_count,
            unlimited_vcpu_count: settings.default_vcpu_count,
            most_vcpu_count: settings.default_vcpu_count,
            command_line: command_line(settings),
            network: settings.network.clone(),
            has_shares: false,
            device_places: 0,
        }
    }

    /// A machine for what these limits allow, of one container or of a whole pod.
    pub fn limited(
        resources: Option<&LinuxResources>,
        has_shares: bool,
        settings: &Settings,
    ) -> Result<Self, PlanError> {
        let memory = resources.and_then(|all| all.memory().as_ref()).and_then(|memory| memory.limit());
        let memory_mib = memory_mib(memory, settings)?;
        let vcpu_count = vcpu_count(resources.and_then(|all| all.cpu().as_ref()), settings)?;
        Ok(Self {
            memory_mib,
            hotplug_mib: hotplug_mib(memory_mib, settings),
            unlimited_mib: settings.default_memory_mib,
            vcpu_count,
            unlimited_vcpu_count: settings.default_vcpu_count,
            most_vcpu_count: vcpu_count.max(settings.most_vcpu_count),
            command_line: command_line(settings),
            network: settings.network.clone(),
            has_shares,
            device_places: 0,
        })
    }

    /// The same with room for so many block devices.
    pub fn with_device_places(self, device_places: u8) -> Self {
        Self { device_places, ..self }
    }
}

impl ContainerPlan {
    /// What it may use.
    pub(crate) fn resources(&self) -> Option<&LinuxResources> {
        self.spec.linux().as_ref()?.resources().as_ref()
    }

    /// How many block devices it has.
    pub fn device_count(&self) -> u8 {
        // Planned, they are at most MAX_BLOCK_DEVICES.
        self.block_devices.len() as u8
    }
}

/// Plans a sandbox with one container.
pub fn plan(id: SandboxId, bundle: Bundle, settings: &Settings) -> Result<Plan, PlanError> {
    let container = contained(id.clone(), bundle)?;
    let machine = MachinePlan::limited(container.resources(), !container.shares.is_empty(), settings)?;
    let machine = machine.with_device_places(container.device_count());
    Ok(Plan { id, machine, container })
}

/// Plans a container that an engine describes, for a machine that may have others.
pub fn container(id: SandboxId, bundle: Bundle) -> Result<ContainerPlan, PlanError> {
    guest_spec::refuse_own_words(&bundle.spec)?;
    contained(id, bundle)
}

fn contained(id: SandboxId, bundle: Bundle) -> Result<ContainerPlan, PlanError> {
    let Bundle { mut spec, root, writable, scope, files } = bundle;
    if spec.process().is_none() {
        return Err(PlanError::NoProcess);
    }
    if root == RootSource::Image && writable == Writable::InPlace {
        return Err(PlanError::ImageInPlace);
    }
    guest_spec::adapt(&mut spec, scope)?;
    let root_share = shares::of_root(&id, root, writable);
    let root_name = root_share.as_ref().map(|share| share.name.clone());
    let shares = root_share.into_iter().chain(shares::of_spec(&id, &mut spec, scope)).collect();
    let block_devices = devices::of_spec(&mut spec)?;
    let io_limits = io_limits::of_spec(&mut spec)?;
    Ok(ContainerPlan { id, spec, root_share: root_name, writable, shares, block_devices, io_limits, files })
}

/// A limit holds inside the guest; the guest is as much larger as its kernel and agent need.
fn memory_mib(limit: Option<i64>, settings: &Settings) -> Result<u32, PlanError> {
    // Zero and negative mean "no limit" in the runtime spec and in docker.
    let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|&limit| limit > 0) else {
        return Ok(settings.default_memory_mib);
    };
    match limit {
        ..LEAST_MEMORY => Err(PlanError::MemoryTooSmall { asked: limit }),
        // `MOST_MEMORY` in MiB fits a u32.
        LEAST_MEMORY..=MOST_MEMORY => Ok((limit.div_ceil(MIB) + GUEST_OVERHEAD_MIB) as u32),
        _ => Err(PlanError::MemoryTooLarge { asked: limit }),
    }
}

/// What is missing to the most, in whole chunks.
fn hotplug_mib(memory_mib: u32, settings: &Settings) -> u32 {
    settings.most_memory_mib.saturating_sub(memory_mib) / HOTPLUG_CHUNK_MIB * HOTPLUG_CHUNK_MIB
}

/// Twice what this host has: limits are promises, and may be more than there is, as everywhere; memory is backed as it is touched.
fn most_memory_mib() -> u32 {
    let host_bytes = sysinfo().map_or(0, |host| host.ram_total());
    // `MOST_MEMORY` in MiB fits a u32.
    (host_bytes.saturating_mul(2).min(MOST_MEMORY) / MIB) as u32
}

/// As many as the quota can keep busy: half a CPU is one vCPU with a quota inside.
fn vcpu_count(cpu: Option<&LinuxCpu>, settings: &Settings) -> Result<u8, PlanError> {
    let Some(quota) = cpu.and_then(LinuxCpu::quota).filter(|&quota| quota > 0) else {
        return Ok(settings.default_vcpu_count.clamp(1, MOST_VCPUS as u8));
    };
    let period = cpu.and_then(LinuxCpu::period).unwrap_or(DEFAULT_PERIOD_US);
    let asked = u64::try_from(quota)
        .ok()
        .filter(|_| period > 0)
        .map(|quota| quota.div_ceil(period))
        .ok_or(PlanError::CpuQuota { quota, period })?;
    if asked > MOST_VCPUS {
        return Err(PlanError::TooManyCpus { asked });
    }
    Ok(asked as u8)
}

/// A panic resets at once, by the port that the VMM watches; one CPU boots, the agent brings the others online. The driver of
/// dummy interfaces makes one unasked, which containers would see. Of memory that is added, most is for what can be moved only, so
/// that it can be given back; what is free is told from 64 KiB on, without which the kernel would have to make larger pieces of it.
fn command_line(settings: &Settings) -> String {
    let speech = if settings.verbose_console { "loglevel=7" } else { "quiet loglevel=1" };
    format!(
        "console=ttyS0 {speech} reboot=k panic=-1 maxcpus=1 dummy.numdummies=0 memory_hotplug.online_policy=auto-movable \
         page_reporting.page_reporting_order=4"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SETTINGS: Settings = Settings {
        default_memory_mib: 512,
        most_memory_mib: 1000,
        default_vcpu_count: 2,
        most_vcpu_count: 2,
        verbose_console: false,
        network: None,
    };

    fn planned(resources: Value) -> Result<MachinePlan, PlanError> {
        let process = json!({"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}});
        planned_spec(
            json!({"ociVersion": "1.2.0", "process": process, "linux": {"namespaces": [{"type": "pid"}], "resources": resources}}),
        )
    }

    fn planned_spec(spec: Value) -> Result<MachinePlan, PlanError> {
        planned_root(spec, RootSource::Image, Writable::Nothing).map(|plan| plan.machine)
    }

    fn planned_root(spec: Value, root: RootSource, writable: Writable) -> Result<Plan, PlanError> {
        let spec = serde_json::from_value(spec).unwrap();
        let scope = Scope::Alone { shm_bytes: None };
        let bundle = Bundle { spec, root, writable, scope, files: Vec::new() };
        plan("x".parse().unwrap(), bundle, &SETTINGS)
    }

    fn with_a_process() -> Value {
        let process = json!({"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}});
        json!({"ociVersion": "1.2.0", "process": process, "linux": {"namespaces": [{"type": "pid"}]}})
    }

    fn memory(limit: i64) -> Value {
        json!({"memory": {"limit": limit}})
    }

    fn cpu(quota: i64, period: u64) -> Value {
        json!({"cpu": {"quota": quota, "period": period}})
    }

    #[test]
    fn without_limits_the_settings_decide() {
        let machine = planned(json!({})).unwrap();
        assert_eq!((machine.memory_mib, machine.vcpu_count), (512, 2));
    }

    #[test]
    fn the_guest_is_larger_than_the_containers_limit() {
        assert_eq!(planned(memory(128 << 20)).unwrap().memory_mib, 128 + 64);
        assert_eq!(planned(memory((128 << 20) + 1)).unwrap().memory_mib, 129 + 64);
    }

    #[test]
    fn what_is_missing_to_the_most_may_be_added_while_it_runs() {
        assert_eq!(planned(json!({})).unwrap().hotplug_mib, 384);
        assert_eq!(planned(memory(1 << 30)).unwrap().hotplug_mib, 0);
    }

    #[test]
    fn memory_out_of_bounds_is_refused() {
        assert_eq!(planned(memory(4096)), Err(PlanError::MemoryTooSmall { asked: 4096 }));
        assert_eq!(planned(memory(1 << 41)), Err(PlanError::MemoryTooLarge { asked: 1 << 41 }));
    }

    #[test]
    fn no_limit_in_its_other_spellings() {
        assert_eq!(planned(memory(-1)), planned(json!({})));
        assert_eq!(planned(cpu(-1, 100_000)), planned(json!({})));
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_vcpus() {
        assert_eq!(planned(cpu(50_000, 100_000)).unwrap().vcpu_count, 1);
        assert_eq!(planned(cpu(150_000, 100_000)).unwrap().vcpu_count, 2);
    }

    #[test]
    fn a_small_machine_may_become_as_large_as_others() {
        let counts = |quota| {
            planned(cpu(quota, 100_000)).map(|machine| (machine.vcpu_count, machine.most_vcpu_count)).unwrap()
        };
        assert_eq!((counts(100_000), counts(300_000)), ((1, 2), (3, 3)));
    }

    #[test]
    fn an_absurd_quota_is_refused() {
        assert_eq!(planned(cpu(1, 0)), Err(PlanError::CpuQuota { quota: 1, period: 0 }));
        assert_eq!(planned(cpu(6_500_000, 100_000)), Err(PlanError::TooManyCpus { asked: 65 }));
    }

    #[test]
    fn a_directory_as_a_root_is_a_share_that_is_writable_only_in_place() {
        for (writable, read_only) in
            [(Writable::InPlace, false), (Writable::Nothing, true), (Writable::Disk, true)]
        {
            let plan =
                planned_root(with_a_process(), RootSource::Directory("/srv/root".into()), writable).unwrap();
            let share = Share {
                name: "x-root".into(),
                source: "/srv/root".into(),
                read_only,
                exclusive: true,
                copy: None,
            };
            assert!(plan.machine.has_shares);
            assert_eq!(
                (plan.container.root_share.as_deref(), plan.container.shares),
                (Some("x-root"), vec![share])
            );
        }
        let image = planned_root(with_a_process(), RootSource::Image, Writable::InPlace);
        assert_eq!(image.unwrap_err(), PlanError::ImageInPlace);
    }

    #[test]
    fn a_bundle_without_a_process_is_refused() {
        assert_eq!(planned_spec(json!({"ociVersion": "1.2.0"})), Err(PlanError::NoProcess));
    }
}
