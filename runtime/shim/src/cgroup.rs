//! The host's cgroup that containerd names for a pod: the server is in it while it lives.

use oci_spec::runtime::Spec;
use securectr_sandbox::HostCgroup;

/// That this process is in a pod's cgroup.
pub(crate) struct Membership {
    own: HostCgroup,
    pods: HostCgroup,
}

impl Membership {
    /// Without it what the pod costs is counted for containerd, and nothing else is wrong.
    pub(crate) fn enter(spec: &Spec) -> Option<Self> {
        let own = HostCgroup::own()?;
        let pods = HostCgroup::of(spec).inspect_err(|error| eprintln!("{}", crate::line(error))).ok()??;
        pods.enter().inspect_err(|error| eprintln!("{}", crate::line(error))).ok()?;
        Some(Self { own, pods })
    }

    pub(crate) fn cgroup(&self) -> &HostCgroup {
        &self.pods
    }

    /// One that somebody is in cannot be removed: goes back to where we come from.
    pub(crate) fn leave(self) {
        if self.own.enter().is_ok() {
            self.pods.remove();
        }
    }
}
