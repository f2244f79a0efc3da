//! `update`: other limits for a container, as options or as the runtime spec's JSON.

use std::{fs, io::stdin};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::args::Update;
use crate::container::{Client, Located, Request, Status};

pub(super) fn update(update: &Update, located: &Located) -> Result<u8> {
    let place = located.place()?;
    if place.read()?.status == Status::Stopped {
        bail!("container not running");
    }
    let limits = match &update.resources {
        Some(path) => {
            let json = match path.to_str() {
                Some("-") => std::io::read_to_string(stdin()),
                _ => fs::read_to_string(path),
            };
            let json = json.with_context(|| format!("read {}", path.display()))?;
            serde_json::from_str(&json).with_context(|| format!("understand {}", path.display()))?
        }
        None => limits(update),
    };
    Client::connect(&place)?.ask(&Request::Update(Box::new(limits)))?;
    Ok(0)
}

/// What was not typed stays.
fn limits(update: &Update) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(update.memory).set_reservation(update.memory_reservation).set_swap(update.memory_swap);
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(update.cpu_quota)
        .set_period(update.cpu_period)
        .set_shares(update.cpu_share)
        .set_cpus(update.cpuset_cpus.clone());
    let pids = update.pids_limit.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut limits = LinuxResources::default();
    limits.set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(pids);
    limits
}
