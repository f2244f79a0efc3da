//! A process on the host that stands for a container: engines record its pid, signal it, and look for namespaces behind it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crate::{NetworkPlan, NetworkSource, sys, vmm::exit_of};

/// It does nothing, and lives until this is dropped or somebody kills it.
#[derive(Debug)]
pub struct Anchor {
    pid: i32,
    pidfd: Arc<OwnedFd>,
}

impl Anchor {
    /// Starts it, for a container whose network comes from there. It dies with the thread that calls this.
    pub fn drop_here(network: &NetworkSource) -> io::Result<Self> {
        let new_network = if *network == NetworkSource::Hooks { libc::CLONE_NEWNET } else { 0 };
        let launched = sys::clone(new_network, sys::stand_still)?;
        Ok(Self { pid: launched.pid, pidfd: Arc::new(launched.pidfd) })
    }

    /// The namespace that becomes the container's network.
    pub fn network(&self, source: NetworkSource) -> Option<NetworkPlan> {
        match source {
            NetworkSource::Nothing => None,
            NetworkSource::Namespace(path) => Some(NetworkPlan::Namespace(path)),
            NetworkSource::Hooks => Some(NetworkPlan::Namespace(format!("/proc/{}/ns/net", self.pid).into())),
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Answers when it has ended: somebody on the host killed the container by its pid.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let pidfd = Arc::clone(&self.pidfd);
        async move {
            let _ = exit_of(&pidfd).await;
        }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        sys::kill(&self.pidfd);
        sys::reap(&self.pidfd);
    }
}
