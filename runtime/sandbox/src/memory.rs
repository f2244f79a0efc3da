//! How much memory a machine has: at first what it was booted with, and more when its containers' limits ask for it. What they may
//! use is there before they may use it.

use std::{collections::HashMap, io, time::Duration};

use oci_spec::runtime::LinuxResources;
use securectr_vmm::spec::HOTPLUG_CHUNK_MIB;
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    MachinePlan, Sandbox, SandboxError, SandboxId,
    plan::{GUEST_OVERHEAD_MIB, MIB},
};

/// How long a guest may take to take memory up, for which it makes page descriptors: so long, and a second for each GiB.
const GROW_LIMIT: Duration = Duration::from_secs(30);

/// Of added memory, one part in so many goes for its own page descriptors (64 bytes for each 4 KiB), and is missing elsewhere.
const DESCRIPTORS_SHARE: u64 = 63;

const GROW: &str = "grow the machine's memory";

#[derive(Debug, Error, PartialEq, Eq)]
pub enum MemoryError {
    #[error(
        "the containers' limits take a machine with {needed_mib} MiB of memory, and {most_mib} MiB are the most"
    )]
    TooMuch { needed_mib: u64, most_mib: u32 },
    #[error("the guest has taken up {plugged_mib} of {wanted_mib} MiB of memory within {limit:?}")]
    Slow { plugged_mib: u32, wanted_mib: u32, limit: Duration },
    #[error("ask for memory: {0}")]
    Ask(io::ErrorKind),
}

/// A machine's memory, and what its containers may use of it.
#[derive(Debug)]
pub(crate) struct Memory {
    boot_mib: u32,
    hotplug_mib: u32,
    unlimited_mib: u32,
    /// In bytes; none for a container without a limit.
    limits: HashMap<SandboxId, Option<u64>>,
    /// What the guest was asked last to have beside what it was booted with.
    requested_mib: u32,
}

impl Memory {
    pub(crate) fn of(plan: &MachinePlan) -> Self {
        Self {
            boot_mib: plan.memory_mib,
            hotplug_mib: plan.hotplug_mib,
            unlimited_mib: plan.unlimited_mib,
            limits: HashMap::new(),
            requested_mib: 0,
        }
    }

    /// What is to be there beside what the machine was booted with.
    fn wanted_mib(&self) -> Result<u32, MemoryError> {
        let limited: u64 = self.limits.values().flatten().map(|bytes| bytes.div_ceil(MIB)).sum();
        let has_unlimited = self.limits.values().any(Option::is_none);
        let unlimited = if has_unlimited { u64::from(self.unlimited_mib) } else { GUEST_OVERHEAD_MIB };
        let missing = (limited + unlimited).saturating_sub(self.boot_mib.into());
        let wanted =
            (missing + missing.div_ceil(DESCRIPTORS_SHARE)).next_multiple_of(HOTPLUG_CHUNK_MIB.into());
        match u32::try_from(wanted) {
            Ok(wanted) if wanted <= self.hotplug_mib => Ok(wanted),
            _ => Err(MemoryError::TooMuch {
                needed_mib: u64::from(self.boot_mib) + wanted,
                most_mib: self.boot_mib + self.hotplug_mib,
            }),
        }
    }

    /// Answers with what was there before.
    pub(crate) fn set(&mut self, container: &SandboxId, limit: Option<u64>) -> Option<Option<u64>> {
        self.limits.insert(container.clone(), limit)
    }

    pub(crate) fn put_back(&mut self, container: &SandboxId, before: Option<Option<u64>>) {
        match before {
            Some(limit) => self.set(container, limit),
            None => self.limits.remove(container),
        };
    }
}

/// In bytes, of what says something about it. Zero says nothing, and less is no limit, as everywhere with OCI.
pub(crate) fn limit_of(resources: Option<&LinuxResources>) -> Option<Option<u64>> {
    let limit = resources?.memory().as_ref()?.limit().filter(|&limit| limit != 0)?;
    Some(u64::try_from(limit).ok())
}

impl Sandbox {
    /// Returns when what the limits ask for is there.
    pub(crate) async fn grow(&self, memory: &mut Memory) -> Result<(), SandboxError> {
        let wanted_mib = memory.wanted_mib()?;
        if wanted_mib <= memory.requested_mib {
            return Ok(());
        }
        let limit = GROW_LIMIT + Duration::from_secs(u64::from(wanted_mib - memory.requested_mib) / 1024);
        self.request(memory, wanted_mib)?;
        let vmm = &self.booted.vmm;
        let grown = tokio::select! {
            grown = timeout(limit, vmm.has_memory(wanted_mib)) => grown,
            end = vmm.ended() => return Err(SandboxError::Ended { operation: GROW, end }),
        };
        let plugged_mib = vmm.memory().plugged_mib;
        grown.map_err(|_| MemoryError::Slow { plugged_mib, wanted_mib, limit }.into())
    }

    /// Nobody waits for it: a guest gives back what it can spare, when it can.
    pub(crate) fn shrink(&self, memory: &mut Memory) {
        let wanted_mib = memory.wanted_mib().unwrap_or(memory.requested_mib);
        if wanted_mib < memory.requested_mib {
            // A VMM that cannot be asked is at its end.
            let _ = self.request(memory, wanted_mib);
        }
    }

    fn request(&self, memory: &mut Memory, mib: u32) -> Result<(), MemoryError> {
        self.booted.vmm.resize_memory(mib).map_err(|error| MemoryError::Ask(error.kind()))?;
        memory.requested_mib = mib;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Booted with 192 MiB, which may become 2 GiB more; 1 GiB for containers without a limit.
    fn memory(limits: &[Option<u64>]) -> Memory {
        let named = |(number, limit): (usize, &Option<u64>)| {
            (format!("c{number}").parse().unwrap(), limit.map(|mib| mib * MIB))
        };
        Memory {
            boot_mib: 192,
            hotplug_mib: 2048,
            unlimited_mib: 1024,
            limits: limits.iter().enumerate().map(named).collect(),
            requested_mib: 0,
        }
    }

    #[test]
    fn nothing_is_added_as_long_as_the_limits_fit() {
        assert_eq!(memory(&[]).wanted_mib(), Ok(0));
        assert_eq!(memory(&[Some(128)]).wanted_mib(), Ok(0));
        assert_eq!(memory(&[Some(64), Some(64)]).wanted_mib(), Ok(0));
    }

    #[test]
    fn what_is_missing_is_added_with_its_descriptors_in_whole_chunks() {
        assert_eq!(memory(&[Some(129)]).wanted_mib(), Ok(128));
        assert_eq!(memory(&[Some(128), Some(126)]).wanted_mib(), Ok(128));
        assert_eq!(memory(&[Some(128), Some(127)]).wanted_mib(), Ok(256));
    }

    #[test]
    fn containers_without_a_limit_share_what_one_has_by_default() {
        assert_eq!(memory(&[None]).wanted_mib(), Ok(896));
        assert_eq!(memory(&[None, None]).wanted_mib(), Ok(896));
        assert_eq!(memory(&[None, Some(128)]).wanted_mib(), Ok(1024));
    }

    #[test]
    fn more_than_the_most_is_refused() {
        assert_eq!(memory(&[Some(2100)]).wanted_mib(), Ok(2048));
        let refused = memory(&[Some(4096)]).wanted_mib();
        assert_eq!(refused, Err(MemoryError::TooMuch { needed_mib: 192 + 4096, most_mib: 2240 }));
        assert!(memory(&[Some(1 << 40), Some(1 << 40)]).wanted_mib().is_err());
    }

    #[test]
    fn a_limit_is_told_from_silence_and_from_its_absence() {
        for (limit, said) in
            [(json!(1000), Some(Some(1000))), (json!(-1), Some(None)), (json!(0), None), (json!(null), None)]
        {
            let resources = serde_json::from_value(json!({"memory": {"limit": limit}})).unwrap();
            assert_eq!(limit_of(Some(&resources)), said, "{limit}");
        }
        assert_eq!(limit_of(Some(&LinuxResources::default())), None);
        assert_eq!(limit_of(None), None);
    }
}
