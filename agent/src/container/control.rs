//! What is asked of a container as a whole while it lives.

use std::future::Future;

use securectr_protocol::agent::StatsResponse;

use super::{Container, ContainerError, Containers, Slot};
use crate::{plan, statistics, stdio::HostStreams};

impl Containers {
    /// Stops all processes of a running container where they are.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), ContainerError> {
        let cgroup = self.with(id, |one| {
            one.check_not_paused()?;
            if one.init.is_running() { Ok(one.cgroup.clone()) } else { Err(ContainerError::NotRunning) }
        })?;
        Ok(cgroup.freeze().await?)
    }

    /// Lets them go on.
    pub(crate) fn resume(&self, id: &str) -> Result<(), ContainerError> {
        self.with(id, |one| {
            if one.init.has_ended() {
                return Err(ContainerError::Ended);
            }
            if !one.cgroup.is_frozen() {
                return Err(ContainerError::NotPaused);
            }
            Ok(one.cgroup.thaw()?)
        })
    }

    /// Gives a container's init other streams, and its other processes none.
    pub(crate) fn attach(&self, id: &str, streams: HostStreams) -> Result<(), ContainerError> {
        self.with(id, |one| {
            one.init.attach(streams);
            for slot in one.execs.values_mut() {
                if let Slot::Taken(process) = slot {
                    process.attach(HostStreams::default());
                }
            }
            Ok(())
        })
    }

    /// Changes the limits.
    pub(crate) fn update(&self, id: &str, resources_json: &[u8]) -> Result<(), ContainerError> {
        self.with(id, |one| {
            if one.init.has_ended() {
                return Err(ContainerError::Ended);
            }
            Ok(one.cgroup.limit(&plan::update(resources_json, &one.cgroup.current())?)?)
        })
    }

    pub(crate) fn stats(&self, id: &str) -> Result<StatsResponse, ContainerError> {
        self.with(id, |one| Ok(statistics::of(&one.cgroup)?))
    }

    /// The pid of each process, and the name of those that were added.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<(u32, Option<String>)>, ContainerError> {
        self.with(id, |one| {
            let pids = one.cgroup.processes()?.into_iter();
            Ok(pids.map(|pid| (pid.as_raw_nonzero().get().unsigned_abs(), one.exec_of(pid))).collect())
        })
    }

    /// Waits until the OOM killer has ended more processes than were seen, and says how many.
    pub(crate) fn wait_oom(
        &self,
        id: &str,
        seen: u64,
    ) -> Result<impl Future<Output = Result<u64, ContainerError>> + Send + use<>, ContainerError> {
        let (cgroup, mut exit) = self.with(id, |one| Ok((one.cgroup.clone(), one.init.exit())))?;
        Ok(async move {
            tokio::select! {
                // First: init may have ended by it.
                biased;
                count = cgroup.more_oom_kills(seen) => Ok(count?),
                _ = exit.wait_for(Option::is_some) => match cgroup.oom_kills() {
                    count if count > seen => Ok(count),
                    _ => Err(ContainerError::Ended),
                },
            }
        })
    }
}

impl Container {
    /// Nothing can begin in a paused container.
    pub(super) fn check_not_paused(&self) -> Result<(), ContainerError> {
        if self.cgroup.is_frozen() { Err(ContainerError::Paused) } else { Ok(()) }
    }

    fn exec_of(&self, pid: rustix::process::Pid) -> Option<String> {
        let is_it = |slot: &Slot<_>| matches!(slot, Slot::Taken(process) if is_process(process, pid));
        self.execs.iter().find(|(_, slot)| is_it(slot)).map(|(id, _)| id.clone())
    }
}

/// An ended process's pid may be another's by now.
fn is_process(process: &super::Process, pid: rustix::process::Pid) -> bool {
    process.pid() == pid && !process.has_ended()
}
