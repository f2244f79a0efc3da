//! How many vCPUs of a machine run: at first what it was booted for, and more when its containers' quotas ask for it. They never get
//! fewer: the guest may be using them.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::{MachinePlan, Sandbox, SandboxError, SandboxId, plan::DEFAULT_PERIOD_US};

/// What a container may use of the CPUs, in microseconds of each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Without one all that a machine has by default.
    quota: Option<u64>,
    period: u64,
}

#[derive(Debug)]
pub(crate) struct Vcpus {
    unlimited: u8,
    most: u8,
    quotas: HashMap<SandboxId, Quota>,
    allowed: u8,
}

impl Quota {
    const NONE: Self = Self { quota: None, period: DEFAULT_PERIOD_US };

    /// Zero says nothing, and a quota of less is none, as everywhere with OCI.
    fn changed(self, cpu: Option<&LinuxCpu>) -> Self {
        let quota = cpu.and_then(LinuxCpu::quota).filter(|&quota| quota != 0);
        let period = cpu.and_then(LinuxCpu::period).filter(|&period| period != 0);
        Self {
            quota: quota.map_or(self.quota, |quota| u64::try_from(quota).ok()),
            period: period.unwrap_or(self.period),
        }
    }

    /// In thousandths of a CPU.
    fn millis(self) -> Option<u64> {
        Some((self.quota?.saturating_mul(1000)).div_ceil(self.period))
    }
}

impl Vcpus {
    pub(crate) fn of(plan: &MachinePlan) -> Self {
        Self {
            unlimited: plan.unlimited_vcpu_count,
            most: plan.most_vcpu_count,
            quotas: HashMap::new(),
            allowed: plan.vcpu_count,
        }
    }

    pub(crate) fn add(&mut self, container: &SandboxId, resources: Option<&LinuxResources>) {
        let quota = Quota::NONE.changed(resources.and_then(|resources| resources.cpu().as_ref()));
        self.quotas.insert(container.clone(), quota);
    }

    /// Answers with what was there before.
    pub(crate) fn change(&mut self, container: &SandboxId, resources: &LinuxResources) -> Option<Quota> {
        let before = self.quotas.get(container).copied();
        let quota = before.unwrap_or(Quota::NONE).changed(resources.cpu().as_ref());
        self.quotas.insert(container.clone(), quota);
        before
    }

    pub(crate) fn put_back(&mut self, container: &SandboxId, before: Option<Quota>) {
        match before {
            Some(quota) => self.quotas.insert(container.clone(), quota),
            None => self.quotas.remove(container),
        };
    }

    pub(crate) fn remove(&mut self, container: &SandboxId) {
        self.quotas.remove(container);
    }

    pub(crate) fn allowed(&self) -> u8 {
        self.allowed
    }

    /// How many the quotas can keep busy: those with one share, beside those without.
    fn wanted(&self) -> u8 {
        let limited = self.quotas.values().filter_map(|quota| quota.millis()).fold(0, u64::saturating_add);
        let has_unlimited = self.quotas.values().any(|quota| quota.quota.is_none());
        let unlimited = if has_unlimited { self.unlimited } else { 0 };
        u8::try_from(limited.div_ceil(1000).max(unlimited.into())).unwrap_or(u8::MAX).min(self.most)
    }
}

impl Sandbox {
    /// Lets as many run as the quotas ask for at least, and says how many they ask for.
    pub(crate) fn let_run(&self, vcpus: &mut Vcpus) -> Result<u8, SandboxError> {
        let wanted = vcpus.wanted();
        if wanted > vcpus.allowed {
            self.booted.vmm.allow_vcpus(wanted).map_err(SandboxError::AllowVcpus)?;
            vcpus.allowed = wanted;
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resources(cpu: Value) -> LinuxResources {
        serde_json::from_value(json!({ "cpu": cpu })).unwrap()
    }

    /// Of a host with four CPUs; its machine was booted for one.
    fn vcpus(containers: &[Value]) -> Vcpus {
        let mut vcpus = Vcpus { unlimited: 4, most: 4, quotas: HashMap::new(), allowed: 1 };
        for (number, cpu) in containers.iter().enumerate() {
            vcpus.add(&format!("c{number}").parse().unwrap(), Some(&resources(cpu.clone())));
        }
        vcpus
    }

    #[test]
    fn quotas_together_are_rounded_up() {
        let half = json!({ "quota": 50_000, "period": 100_000 });
        assert_eq!(vcpus(&[]).wanted(), 0);
        assert_eq!(vcpus(std::slice::from_ref(&half)).wanted(), 1);
        assert_eq!(vcpus(&[half.clone(), half.clone()]).wanted(), 1);
        assert_eq!(vcpus(&[half.clone(), half.clone(), json!({ "quota": 1000 })]).wanted(), 2);
        assert_eq!(vcpus(&[json!({ "quota": i64::MAX, "period": 1 }), half]).wanted(), 4);
    }

    #[test]
    fn without_a_quota_a_container_uses_what_one_has_by_default() {
        assert_eq!(vcpus(&[json!({})]).wanted(), 4);
        assert_eq!(vcpus(&[json!({ "quota": -1 }), json!({ "quota": 50_000 })]).wanted(), 4);
    }

    #[test]
    fn what_an_update_does_not_say_stays() {
        let mut vcpus = vcpus(&[json!({ "quota": 50_000, "period": 50_000 })]);
        let container = "c0".parse().unwrap();
        let before = vcpus.change(&container, &resources(json!({ "quota": 150_000, "period": 0 })));
        assert_eq!(vcpus.wanted(), 3);
        vcpus.change(&container, &LinuxResources::default());
        assert_eq!(vcpus.wanted(), 3);
        vcpus.change(&container, &resources(json!({ "period": 100_000 })));
        assert_eq!(vcpus.wanted(), 2);
        vcpus.put_back(&container, before);
        assert_eq!(vcpus.wanted(), 1);
    }
}
