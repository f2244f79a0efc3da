//! `update`: other limits for a container, as options or as the runtime spec's JSON.

use std::{fs, io::stdin};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use securectr_sandbox::Config;
use serde_json::Value;

use super::{args::Update, verbs};
use crate::{
    args::Global,
    bundle::CPU_PERIOD_US,
    container::{Action, Book, Client, Journal, Located, Place, Request, Restart, Status},
    kept, paths,
    report::Report,
};

/// A container that stays has them from its next start on, too.
pub(super) fn update(update: &Update, global: &Global, report: &Report) -> Result<u8> {
    let change = Change { limits: limits(update)?, restart: update.restart };
    if change == Change::default() && update.resources.is_none() {
        bail!("nothing to change: see securectr update --help");
    }
    verbs::of_each(&update.names, global, report, |located, is_kept| {
        update_one(located, &change, is_kept, global)
    })
}

/// What is to be another.
#[derive(Debug, Default, PartialEq)]
struct Change {
    limits: LinuxResources,
    restart: Option<Restart>,
}

fn limits(update: &Update) -> Result<LinuxResources> {
    Ok(match &update.resources {
        Some(path) => {
            let json = match path.to_str() {
                Some("-") => std::io::read_to_string(stdin()),
                _ => fs::read_to_string(path),
            };
            let json = json.with_context(|| format!("read {}", path.display()))?;
            serde_json::from_str(&json).with_context(|| format!("understand {}", path.display()))?
        }
        None => typed(update),
    })
}

fn update_one(located: &Located, change: &Change, is_kept: bool, global: &Global) -> Result<()> {
    let place = located.place()?;
    let record = place.read()?;
    let runs = record.status != Status::Stopped;
    if !runs && !is_kept {
        bail!("container not running");
    }
    if let Some(policy) = change.restart {
        set_restart(located, policy)?;
    }
    if change.limits != LinuxResources::default() {
        if runs {
            Client::connect(&place)?.ask(&Request::Update(Box::new(change.limits.clone())))?;
        }
        if is_kept {
            keep(&place, &change.limits)?;
        }
    }
    if is_kept {
        Journal::of(&paths::store(global)?).note(&record, &Action::Update);
    }
    Ok(())
}

/// Of one that runs, its monitor keeps the record.
fn set_restart(located: &Located, policy: Restart) -> Result<()> {
    let _alone = located.records.lock()?;
    let place = located.place()?;
    let record = place.read()?;
    if record.status != Status::Stopped {
        Client::connect(&place)?.ask(&Request::Restart(policy))?;
        return Ok(());
    }
    Book::new(place, record, None).set_restart(policy)
}

/// Changes what its next start reads, of which nothing is lost when this one is cut short.
fn keep(place: &Place, limits: &LinuxResources) -> Result<()> {
    let mut spec = Config::read(place.path())?.spec;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let before = serde_json::to_value(linux.resources().clone().unwrap_or_default())?;
    linux.set_resources(Some(serde_json::from_value(merged(before, serde_json::to_value(limits)?))?));
    spec.set_linux(Some(linux));
    kept::write_spec(place, &spec)
}

/// What the change says goes before, at each depth.
fn merged(before: Value, change: Value) -> Value {
    match (before, change) {
        (Value::Object(mut before), Value::Object(change)) => {
            for (name, change) in change {
                let old = before.remove(&name).unwrap_or_default();
                before.insert(name, merged(old, change));
            }
            Value::Object(before)
        }
        (before, Value::Null) => before,
        (_, change) => change,
    }
}

/// What was not typed stays.
fn typed(update: &Update) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(update.memory).set_reservation(update.memory_reservation).set_swap(update.memory_swap);
    let mut cpu = LinuxCpu::default();
    let quota = update.cpus.map(|cpus| (cpus * CPU_PERIOD_US as f64).round() as i64);
    cpu.set_quota(quota.or(update.cpu_quota))
        .set_period(quota.map(|_| CPU_PERIOD_US).or(update.cpu_period))
        .set_shares(update.cpu_share)
        .set_cpus(update.cpuset_cpus.clone());
    let pids = update.pids_limit.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut limits = LinuxResources::default();
    limits
        .set_memory(Some(memory).filter(|memory| *memory != LinuxMemory::default()))
        .set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
        .set_pids(pids);
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_changed_stays() {
        let before = json!({"memory": {"limit": 1, "swap": 2}, "pids": {"limit": 3}});
        let change = json!({"memory": {"limit": 9, "swap": null}, "cpu": {"quota": 5}});
        let after = json!({"memory": {"limit": 9, "swap": 2}, "pids": {"limit": 3}, "cpu": {"quota": 5}});
        assert_eq!(merged(before, change), after);
    }
}
