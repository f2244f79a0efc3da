//! What a container may use.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice, Spec,
};

use crate::args::Run;

/// The period of CPU quotas, in microseconds; the kernel's own default.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

pub(super) fn set(spec: &mut Spec, run: &Run) {
    let Some(mut linux) = spec.linux().clone() else { return };
    let mut resources = linux.resources().clone().unwrap_or_default();
    set_memory(&mut resources, run);
    set_cpu(&mut resources, run);
    set_block_io(&mut resources, run);
    if let Some(limit) = run.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    linux.set_resources(Some(resources));
    linux.set_sysctl(Some(run.sysctl.iter().cloned().collect::<HashMap<_, _>>()));
    spec.set_linux(Some(linux));
}

fn set_memory(resources: &mut LinuxResources, run: &Run) {
    if run.memory.is_none() && run.memory_reservation.is_none() {
        return;
    }
    let mut memory = LinuxMemory::default();
    if let Some(limit) = run.memory {
        // No swap on top: the limit is what was asked for.
        memory.set_limit(Some(limit)).set_swap(Some(run.memory_swap.unwrap_or(limit)));
    }
    memory.set_reservation(run.memory_reservation);
    resources.set_memory(Some(memory));
}

fn set_cpu(resources: &mut LinuxResources, run: &Run) {
    if run.cpus.is_none() && run.cpu_shares.is_none() && run.cpuset_cpus.is_none() {
        return;
    }
    let mut cpu = cpu_of(run.cpus);
    cpu.set_shares(run.cpu_shares).set_cpus(run.cpuset_cpus.clone());
    resources.set_cpu(Some(cpu));
}

/// For so many CPUs; without a number there is no limit.
pub(crate) fn cpu_of(cpus: Option<f64>) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    if let Some(cpus) = cpus {
        cpu.set_period(Some(CPU_PERIOD_US)).set_quota(Some((cpus * CPU_PERIOD_US as f64) as i64));
    }
    cpu
}

fn set_block_io(resources: &mut LinuxResources, run: &Run) {
    let throttles =
        |typed: &[LinuxThrottleDevice]| Some(typed.to_vec()).filter(|throttles| !throttles.is_empty());
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_throttle_read_bps_device(throttles(&run.device_read_bps))
        .set_throttle_write_bps_device(throttles(&run.device_write_bps))
        .set_throttle_read_iops_device(throttles(&run.device_read_iops))
        .set_throttle_write_iops_device(throttles(&run.device_write_iops));
    if block_io != LinuxBlockIo::default() {
        resources.set_block_io(Some(block_io));
    }
}
