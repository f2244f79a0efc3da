//! A change of limits: what is not said stays as it is. What a property means is limits.rs's matter.

use super::{Limits, PlanError, limits};
use crate::spec;

/// What holds for a container: some properties have a meaning only together with another, which an update may leave unsaid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Current {
    /// In bytes; -1 is no limit, as in the spec.
    pub memory_limit: i64,
    /// In bytes.
    pub memory_usage: i64,
    /// In microseconds of each period; -1 is no limit.
    pub cpu_quota: i64,
    /// In microseconds.
    pub cpu_period: u64,
}

impl Current {
    /// From the content of memory.max, memory.current and cpu.max.
    pub(crate) fn read(memory_max: &str, memory_current: &str, cpu_max: &str) -> Self {
        let number = |text: &str| text.trim().parse().unwrap_or(-1);
        let (quota, period) = cpu_max.trim().split_once(' ').unwrap_or_default();
        Self {
            memory_limit: number(memory_max),
            memory_usage: number(memory_current),
            cpu_quota: number(quota),
            cpu_period: period.parse().unwrap_or(limits::DEFAULT_PERIOD_US),
        }
    }
}

/// Plans an update from the spec's `linux.resources`. The devices stay those of the container's creation: engines send the whole
/// object to change one limit, and a device that is taken away would stay open.
pub(crate) fn update(resources_json: &[u8], current: &Current) -> Result<Limits, PlanError> {
    let mut resources: spec::Resources = serde_json::from_slice(resources_json)?;
    resources.devices.clear();
    if let Some(memory) = &mut resources.memory {
        complete_memory(memory, current)?;
    }
    if let Some(cpu) = &mut resources.cpu {
        complete_cpu(cpu, current);
    }
    // In an update 0 is "not set" here, too.
    resources.pids = resources.pids.filter(|pids| pids.limit != Some(0));
    let mut limits = limits::plan(resources)?;
    let place = |name: &str| limits.files.iter().position(|(file, _)| file == name);
    if let (Some(quota), Some(_)) = (place("cpu.max"), place("cpu.max.burst")) {
        // The kernel refuses a quota below the burst: the old burst must not be in the new quota's way.
        limits.files.insert(quota, ("cpu.max.burst".to_owned(), "0".to_owned()));
    }
    Ok(limits)
}

fn complete_memory(memory: &mut spec::Memory, current: &Current) -> Result<(), PlanError> {
    let is_set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    if is_set(memory.swap) && !is_set(memory.limit) {
        memory.limit = Some(current.memory_limit);
    }
    let limit = memory.limit.unwrap_or(0);
    if memory.check_before_update && limit > 0 && limit < current.memory_usage {
        let value = format!("{limit}, below the {} bytes in use", current.memory_usage);
        return Err(PlanError::Invalid { property: "linux.resources.memory.limit", value });
    }
    Ok(())
}

fn complete_cpu(cpu: &mut spec::Cpu, current: &Current) {
    let period = cpu.period.filter(|&period| period != 0);
    let quota = cpu.quota.filter(|&quota| quota != 0);
    (cpu.quota, cpu.period) = match (quota, period) {
        // Engines send zeroes for what they do not want to change.
        (None, None) => (None, None),
        (quota, period) => (quota.or(Some(current.cpu_quota)), period.or(Some(current.cpu_period))),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Current =
        Current { memory_limit: 100, memory_usage: 60, cpu_quota: 50_000, cpu_period: 200_000 };

    fn files(resources: &Value) -> Vec<(String, String)> {
        update(&serde_json::to_vec(resources).unwrap(), &NOW).unwrap().files
    }

    fn file(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_holds_is_read_from_the_kernel() {
        assert_eq!(Current::read("100\n", "60\n", "50000 200000\n"), NOW);
        let unlimited = Current::read("max\n", "0\n", "max 100000\n");
        assert_eq!((unlimited.memory_limit, unlimited.cpu_quota), (-1, -1));
    }

    #[test]
    fn nothing_said_changes_nothing() {
        assert_eq!(files(&json!({})), []);
        assert_eq!(files(&json!({ "cpu": {}, "memory": {}, "pids": {}, "blockIO": {} })), []);
        let zeroes = json!({ "cpu": { "shares": 0, "quota": 0, "period": 0, "cpus": "" },
            "memory": { "limit": 0, "swap": 0, "reservation": 0 }, "pids": { "limit": 0 }, "blockIO": { "weight": 0 } });
        assert_eq!(files(&zeroes), []);
    }

    #[test]
    fn half_a_pair_is_completed_by_what_holds() {
        assert_eq!(files(&json!({ "cpu": { "quota": 60_000 } })), [file("cpu.max", "60000 200000")]);
        assert_eq!(files(&json!({ "cpu": { "period": 100_000 } })), [file("cpu.max", "50000 100000")]);
        assert_eq!(
            files(&json!({ "memory": { "swap": 150 } })),
            [file("memory.swap.max", "50"), file("memory.max", "100")]
        );
    }

    #[test]
    fn less_than_nothing_is_no_limit() {
        let all =
            json!({ "cpu": { "quota": -1 }, "memory": { "limit": -1, "swap": -1 }, "pids": { "limit": -1 } });
        let limits = ["memory.swap.max", "memory.max"].map(|name| file(name, "max")).into_iter();
        let expected: Vec<_> =
            limits.chain([file("cpu.max", "max 200000"), file("pids.max", "max")]).collect();
        assert_eq!(files(&all), expected);
    }

    #[test]
    fn no_value_stands_in_the_way_of_another() {
        let burst = json!({ "cpu": { "quota": 10_000, "burst": 5_000 } });
        let expected = [("cpu.max.burst", "0"), ("cpu.max", "10000 200000"), ("cpu.max.burst", "5000")];
        assert_eq!(files(&burst), expected.map(|(name, value)| file(name, value)));
        let wake = json!({ "cpu": { "shares": 1024, "idle": 0 } });
        assert_eq!(files(&wake), [file("cpu.idle", "0"), file("cpu.weight", "39")]);
        assert_eq!(files(&json!({ "cpu": { "shares": 1024, "idle": 1 } })), [file("cpu.idle", "1")]);
    }

    #[test]
    fn memory_in_use_is_not_taken_away_when_asked_to_look() {
        let memory =
            |limit: i64| json!({ "memory": { "limit": limit, "checkBeforeUpdate": true } }).to_string();
        assert!(update(memory(59).as_bytes(), &NOW).is_err());
        assert!(update(memory(60).as_bytes(), &NOW).is_ok());
    }

    #[test]
    fn device_rules_and_what_is_no_resource_are_told_apart() {
        assert!(
            update(br#"{ "devices": [{ "allow": false, "access": "rwm" }] }"#, &NOW)
                .unwrap()
                .devices
                .is_empty()
        );
        assert!(update(b"[", &NOW).is_err());
        assert!(update(br#"{ "memory": { "swap": 50 } }"#, &NOW).is_err(), "less of both than of memory");
    }
}
