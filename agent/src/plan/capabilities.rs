//! Capabilities by name, as sets of bits.

use rustix::thread::CapabilitySet;

use super::PlanError;
use crate::spec;

/// In the order of their numbers, capabilities(7).
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All that the kernel knows.
pub(crate) fn all() -> impl Iterator<Item = CapabilitySet> {
    (0..NAMES.len()).map(bit)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Capabilities {
    pub bounding: CapabilitySet,
    pub effective: CapabilitySet,
    pub inheritable: CapabilitySet,
    pub permitted: CapabilitySet,
    pub ambient: CapabilitySet,
}

impl Capabilities {
    /// Those outside of the bounding set, which are to be given up.
    pub(crate) fn unbounded(&self) -> impl Iterator<Item = CapabilitySet> {
        let bounding = self.bounding;
        all().filter(move |&one| !bounding.contains(one))
    }
}

/// Without any in the spec there are none.
pub(crate) fn plan(spec: &spec::Capabilities) -> Result<Capabilities, PlanError> {
    Ok(Capabilities {
        bounding: set(&spec.bounding)?,
        effective: set(&spec.effective)?,
        inheritable: set(&spec.inheritable)?,
        permitted: set(&spec.permitted)?,
        ambient: set(&spec.ambient)?,
    })
}

fn set(names: &[String]) -> Result<CapabilitySet, PlanError> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| Ok(set | one(name)?))
}

fn one(name: &str) -> Result<CapabilitySet, PlanError> {
    let invalid = || PlanError::Invalid { property: "process.capabilities", value: name.to_owned() };
    let short = name.strip_prefix("CAP_").ok_or_else(invalid)?;
    NAMES.iter().position(|&known| known == short).map(bit).ok_or_else(invalid)
}

fn bit(number: usize) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_the_kernels_numbers() {
        assert_eq!(one("CAP_CHOWN").unwrap(), CapabilitySet::CHOWN);
        assert_eq!(one("CAP_SYS_ADMIN").unwrap(), CapabilitySet::SYS_ADMIN);
        assert_eq!(one("CAP_SETFCAP").unwrap(), CapabilitySet::SETFCAP);
        assert_eq!(one("CAP_CHECKPOINT_RESTORE").unwrap(), CapabilitySet::CHECKPOINT_RESTORE);
    }

    #[test]
    fn an_unknown_capability_is_refused_by_name() {
        assert!(one("CAP_FLY").unwrap_err().to_string().contains("CAP_FLY"));
        assert!(one("CHOWN").is_err());
    }

    #[test]
    fn what_is_not_bounding_is_given_up() {
        let mut plan = plan(&spec::Capabilities::default()).unwrap();
        assert_eq!(plan.unbounded().count(), NAMES.len());
        plan.bounding = CapabilitySet::CHOWN;
        assert!(plan.unbounded().all(|one| one != CapabilitySet::CHOWN));
    }
}
