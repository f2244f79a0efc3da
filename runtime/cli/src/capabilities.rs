//! `--cap-add` and `--cap-drop`.

use oci_spec::runtime::{Capability, LinuxCapabilities, Process};
use thiserror::Error;

use crate::args::Run;

#[derive(Debug, Error, PartialEq)]
#[error("there is no capability {0:?}")]
pub(crate) struct UnknownCapability(String);

/// All of capabilities(7).
const ALL: &[Capability] = &[
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setgid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Root gets the capabilities; others get them as a bound only, so that a set-uid program may have them.
pub(crate) fn set(process: &mut Process, run: &Run, is_root: bool) -> Result<(), UnknownCapability> {
    let mut capabilities = process.capabilities().clone().unwrap_or_default();
    let mut set = capabilities.bounding().clone().unwrap_or_default();
    // As docker does: what is dropped can be added again.
    for name in &run.cap_drop {
        let dropped = named(name)?;
        set.retain(|capability| !dropped.contains(capability));
    }
    for name in &run.cap_add {
        set.extend(named(name)?);
    }
    if run.privileged {
        set.extend(ALL);
    }
    if is_root {
        capabilities.set_effective(Some(set.clone())).set_permitted(Some(set.clone()));
    }
    capabilities.set_bounding(Some(set));
    process.set_capabilities(Some(capabilities));
    Ok(())
}

/// Gives a process all that there are.
pub(crate) fn set_all(process: &mut Process) {
    let all = || Some(ALL.iter().copied().collect());
    let mut capabilities = LinuxCapabilities::default();
    capabilities.set_bounding(all()).set_permitted(all()).set_effective(all());
    process.set_capabilities(Some(capabilities));
}

/// One capability by its name, with or without `CAP_`, or all of them.
fn named(name: &str) -> Result<Vec<Capability>, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(ALL.to_vec());
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let found = ALL.iter().find(|capability| capability.to_string() == short);
    found.map(|capability| vec![*capability]).ok_or_else(|| UnknownCapability(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::args::typed;

    fn effective(options: &[&str]) -> Result<Option<HashSet<Capability>>, UnknownCapability> {
        let run = typed(&[options, &["image"]].concat());
        let mut process = Process::default();
        set(&mut process, &run, true)?;
        Ok(process.capabilities().clone().unwrap().effective().clone())
    }

    #[test]
    fn capabilities_are_dropped_then_added() {
        let left = effective(&["--cap-drop", "ALL", "--cap-add", "net_admin", "--cap-add", "CAP_CHOWN"]);
        assert_eq!(left, Ok(Some(HashSet::from([Capability::NetAdmin, Capability::Chown]))));
    }

    #[test]
    fn all_are_all() {
        assert_eq!(effective(&["--cap-add", "all"]).unwrap().unwrap().len(), 41);
    }

    #[test]
    fn the_privileged_have_all() {
        assert_eq!(effective(&["--privileged", "--cap-drop", "CHOWN"]).unwrap().unwrap().len(), 41);
        let mut process = Process::default();
        set_all(&mut process);
        let all = process.capabilities().clone().unwrap();
        assert_eq!((all.bounding(), all.permitted()), (all.effective(), all.effective()));
        assert_eq!(all.effective().as_ref().unwrap().len(), 41);
    }

    #[test]
    fn an_unknown_one_is_refused_by_name() {
        assert_eq!(effective(&["--cap-add", "FLY"]), Err(UnknownCapability("FLY".into())));
    }
}
