//! Which namespaces a container has of its own, and which it joins.

use std::path::PathBuf;

use rustix::thread::LinkNameSpaceType;

use super::{PlanError, refuse_unless};
use crate::spec;

#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Flags of clone3(2) for those that are made with the process.
    pub clone_flags: u64,
    /// clone3 would root it in the agent's cgroup, so it is made after the process has entered its own.
    pub new_cgroup: bool,
    /// The pid namespace to be born into.
    pub joined_pid: Option<PathBuf>,
    pub joined: Vec<Joined>,
}

/// A namespace to enter, by a path in the guest.
#[derive(Debug)]
pub(crate) struct Joined {
    pub kind: LinkNameSpaceType,
    pub path: PathBuf,
}

impl Namespaces {
    /// Without, a host name would be the whole guest's.
    pub(crate) fn has_uts(&self) -> bool {
        let is_uts = |joined: &Joined| joined.kind == LinkNameSpaceType::HostNameAndNISDomainName;
        self.clone_flags & libc::CLONE_NEWUTS as u64 != 0 || self.joined.iter().any(is_uts)
    }

    /// With a pid namespace of its own, the end of init is the end of all.
    pub(crate) fn has_own_pid(&self) -> bool {
        self.clone_flags & libc::CLONE_NEWPID as u64 != 0
    }
}

/// A type that is not listed is shared with the guest, except for mounts: without a mount namespace there is no container.
pub(crate) fn plan(listed: &[spec::Namespace]) -> Result<Namespaces, PlanError> {
    let mut plan = Namespaces::default();
    for namespace in listed {
        let path = namespace.path.as_deref().filter(|path| !path.is_empty()).map(PathBuf::from);
        add(&mut plan, &namespace.kind, path)?;
    }
    refuse_unless(
        plan.clone_flags & libc::CLONE_NEWNS as u64 != 0,
        "linux.namespaces without a mount namespace of its own",
    )?;
    Ok(plan)
}

fn add(plan: &mut Namespaces, kind: &str, path: Option<PathBuf>) -> Result<(), PlanError> {
    let (flag, link) = match kind {
        "cgroup" if path.is_none() => {
            plan.new_cgroup = true;
            return Ok(());
        }
        "pid" if path.is_some() => {
            plan.joined_pid = path;
            return Ok(());
        }
        "mount" if path.is_some() => return Err(PlanError::Unsupported("a joined mount namespace".into())),
        "mount" => (libc::CLONE_NEWNS, LinkNameSpaceType::Mount),
        "pid" => (libc::CLONE_NEWPID, LinkNameSpaceType::ProcessID),
        "cgroup" => (libc::CLONE_NEWCGROUP, LinkNameSpaceType::ControlGroup),
        "ipc" => (libc::CLONE_NEWIPC, LinkNameSpaceType::InterProcessCommunication),
        "network" => (libc::CLONE_NEWNET, LinkNameSpaceType::Network),
        "uts" => (libc::CLONE_NEWUTS, LinkNameSpaceType::HostNameAndNISDomainName),
        "user" | "time" => return Err(PlanError::Unsupported(format!("a {kind} namespace"))),
        other => {
            return Err(PlanError::Invalid { property: "linux.namespaces.type", value: other.to_owned() });
        }
    };
    match path {
        None => plan.clone_flags |= flag as u64,
        Some(path) => plan.joined.push(Joined { kind: link, path }),
    }
    Ok(())
}
