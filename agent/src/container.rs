//! The containers of this guest. One lock, never held across an await.

mod channel;
mod child;
mod control;
mod credentials;
mod devices;
mod exec;
mod failure;
mod files;
mod first;
mod hooks;
mod job;
mod mounts;
mod pod;
mod process;
mod root;
mod rootfs;
mod sys;
mod terminal;
mod user;
mod volume;

use std::{
    collections::BTreeMap,
    fs::File,
    future::Future,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use securectr_protocol::DRAIN_LIMIT_MS;
use thiserror::Error;
use tokio::time::timeout;

pub(crate) use channel::{ChannelError, NotExecuted};
pub(crate) use exec::Added;
pub(crate) use files::GivenFile;
pub(crate) use job::{Job, Parcel};
pub(crate) use pod::PodPlan;
pub(crate) use rootfs::{Lower, RootfsPlan, STAGES, Upper};

use crate::{
    cgroup::{Cgroup, CgroupError},
    disks::{self, DisksError},
    plan::{ContainerPlan, PlanError, ProcessPlan, WindowSize},
    reaper::{Exit, Reaper},
    stdio::{self, AgentStreams, HostStreams, ProcessStreams},
};
use process::{Birth, Process};

/// An id becomes a name in the cgroup file system.
const MAX_ID_LEN: usize = 128;

#[derive(Debug, Error)]
pub(crate) enum ContainerError {
    #[error("{0:?} cannot be an id: letters, digits and any of _.- after the first, at most {MAX_ID_LEN}")]
    BadId(String),
    #[error("there is no {0}")]
    Missing(String),
    #[error("there is a {0} already")]
    Exists(String),
    #[error("the disk {0} belongs to another container")]
    DiskInUse(String),
    #[error("the process has ended")]
    Ended,
    #[error("the process has not ended")]
    NotEnded,
    #[error("the process was started before")]
    Started,
    #[error("the container is not running")]
    NotRunning,
    #[error("the container is paused")]
    Paused,
    #[error("the container is not paused")]
    NotPaused,
    #[error("the process has no terminal")]
    NoTerminal,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Process(#[from] ChannelError),
    #[error(transparent)]
    Disks(#[from] DisksError),
    #[error("the kernel refused")]
    Io(#[from] io::Error),
}

/// Names a process: a container's init, or a further one.
#[derive(Clone, Debug)]
pub(crate) struct ProcessName {
    pub container: String,
    pub exec: Option<String>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub exit: Exit,
    pub oom_killed: bool,
}

#[derive(Clone)]
pub(crate) struct Containers {
    reaper: Reaper,
    state: Arc<Mutex<BTreeMap<String, Slot<Container>>>>,
}

/// A name is taken before there is anything behind it.
#[derive(Debug)]
enum Slot<T> {
    Reserved,
    Taken(T),
}

#[derive(Debug)]
struct Container {
    cgroup: Arc<Cgroup>,
    process_plan: ProcessPlan,
    has_own_pid_namespace: bool,
    /// The disk with its image.
    image: Option<String>,
    /// The writable disk.
    disk: Option<String>,
    /// Block devices of the host.
    disks: Vec<String>,
    init: Process,
    execs: BTreeMap<String, Slot<Process>>,
}

impl Containers {
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self { reaper, state: Arc::default() }
    }

    /// Makes a container, whose init waits to be started.
    pub(crate) async fn create(
        &self,
        id: String,
        plan: ContainerPlan,
        rootfs: RootfsPlan,
        streams: HostStreams,
    ) -> Result<u32, ContainerError> {
        self.reserve(&id, &rootfs)?;
        match self.make(&id, plan, rootfs, streams).await {
            Ok(container) => {
                let pid = container.init.pid();
                self.lock().insert(id, Slot::Taken(container));
                Ok(pid.as_raw_nonzero().get().unsigned_abs())
            }
            Err(error) => {
                self.lock().remove(&id);
                Err(error)
            }
        }
    }

    fn reserve(&self, id: &str, rootfs: &RootfsPlan) -> Result<(), ContainerError> {
        check_id(id)?;
        let mut state = self.lock();
        if state.contains_key(id) {
            return Err(ContainerError::Exists(format!("container {id}")));
        }
        if let Upper::Ext4 { device } = &rootfs.upper {
            let uses = |slot: &Slot<Container>| matches!(slot, Slot::Taken(one) if one.disk.as_ref() == Some(device));
            if state.values().any(uses) {
                return Err(ContainerError::DiskInUse(device.clone()));
            }
        }
        state.insert(id.to_owned(), Slot::Reserved);
        Ok(())
    }

    async fn make(
        &self,
        id: &str,
        plan: ContainerPlan,
        rootfs: RootfsPlan,
        streams: HostStreams,
    ) -> Result<Container, ContainerError> {
        let (process_streams, agent_streams) = split(streams, &plan.process)?;
        let cgroup = Cgroup::create(id, &plan.limits)?;
        let born = self
            .bear_init(&cgroup, child::Init { id, plan: &plan, rootfs: &rootfs, streams: process_streams });
        let grown = match born {
            Ok(newborn) => newborn.grow(agent_streams).await,
            Err(error) => Err(error),
        };
        let limited = grown.and_then(|init| {
            cgroup.limit_devices(&plan.limits.devices)?;
            Ok(init)
        });
        match limited {
            Ok(init) => Ok(Container {
                cgroup: Arc::new(cgroup),
                has_own_pid_namespace: plan.namespaces.has_own_pid(),
                process_plan: plan.process,
                disks: plan.disks,
                image: match rootfs.lower {
                    Lower::Image { device } => Some(device),
                    Lower::Share(_) => None,
                },
                disk: match rootfs.upper {
                    Upper::Ext4 { device } => Some(device),
                    Upper::None | Upper::Tmpfs { .. } | Upper::InPlace => None,
                },
                init,
                execs: BTreeMap::new(),
            }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cgroup.remove().await;
                Err(error)
            }
        }
    }

    fn bear_init(&self, cgroup: &Cgroup, init: child::Init<'_>) -> Result<process::Newborn, ContainerError> {
        let namespaces = &init.plan.namespaces;
        let pid_namespace = namespaces.joined_pid.as_ref().map(File::open).transpose()?;
        let birth = Birth {
            clone_flags: namespaces.clone_flags,
            pid_namespace: pid_namespace.map(Into::into),
            cgroup: Some(cgroup),
            reaper: &self.reaper,
        };
        Ok(process::bear(&birth, |channel| init.live(channel))?)
    }

    /// Lets a process run its program; says why when it cannot be executed.
    pub(crate) async fn start(&self, name: &ProcessName) -> Result<Option<NotExecuted>, ContainerError> {
        if self.with_process(name, |process| Ok(process.is_in_cgroup()))? {
            self.with(&name.container, |one| one.check_not_paused())?;
        }
        let gate = self.with_process(name, |process| process.start().ok_or(ContainerError::Started))?;
        gate.open().await
    }

    pub(crate) fn signal(&self, name: &ProcessName, signal: Signal) -> Result<(), ContainerError> {
        self.with_process(name, |process| process.signal(signal))
    }

    /// Sends a signal to all processes of a container.
    pub(crate) fn signal_all(&self, container: &str, signal: Signal) -> Result<(), ContainerError> {
        self.with(container, |one| Ok(one.cgroup.signal_all(signal)?))
    }

    pub(crate) fn resize(&self, name: &ProcessName, size: WindowSize) -> Result<(), ContainerError> {
        self.with_process(name, |process| process.resize(size))
    }

    /// Waits for a process's end, and until the host has its output.
    pub(crate) fn wait(
        &self,
        name: &ProcessName,
    ) -> Result<impl Future<Output = Result<Ended, ContainerError>> + Send + use<>, ContainerError> {
        let (mut exit, drained) =
            self.with_process(name, |process| Ok((process.exit(), process.drained())))?;
        let (cgroup, kills_rest) = self.with(&name.container, |one| {
            Ok((one.cgroup.clone(), name.exec.is_none() && !one.has_own_pid_namespace))
        })?;
        Ok(async move {
            let exit = exit.wait_for(Option::is_some).await.map_or(None, |exit| *exit);
            if kills_rest {
                // With a pid namespace of its own the kernel has done so.
                cgroup.kill_all()?;
            }
            // What is not drained by then stays on its way.
            let _ = timeout(Duration::from_millis(DRAIN_LIMIT_MS), drained).await;
            Ok(Ended { exit: exit.ok_or(ContainerError::Ended)?, oom_killed: cgroup.oom_kills() > 0 })
        })
    }

    /// Removes an ended process, or an ended container with all that was made for it.
    pub(crate) async fn delete(&self, name: &ProcessName) -> Result<(), ContainerError> {
        if !self.with_process(name, |process| Ok(process.has_ended()))? {
            return Err(ContainerError::NotEnded);
        }
        let cgroup = self.with(&name.container, |one| {
            if let Some(exec) = &name.exec {
                one.execs.remove(exec);
                return Ok(None);
            }
            Ok(Some(one.cgroup.clone()))
        })?;
        if let Some(cgroup) = cgroup {
            self.end_workers(&name.container).await?;
            cgroup.remove().await?;
            let removed = self.lock().remove(&name.container);
            if let Some(Slot::Taken(container)) = removed {
                // What was written is with the host when this is answered.
                let disks: Vec<String> = container.disks.into_iter().chain(container.disk).collect();
                disks::let_go(&disks).await?;
            }
        }
        Ok(())
    }

    fn with<T>(
        &self,
        id: &str,
        act: impl FnOnce(&mut Container) -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        match self.lock().get_mut(id) {
            Some(Slot::Taken(container)) => act(container),
            Some(Slot::Reserved) | None => Err(ContainerError::Missing(format!("container {id}"))),
        }
    }

    fn with_process<T>(
        &self,
        name: &ProcessName,
        act: impl FnOnce(&mut Process) -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        self.with(&name.container, |one| match &name.exec {
            None => act(&mut one.init),
            Some(exec) => match one.execs.get_mut(exec) {
                Some(Slot::Taken(process)) => act(process),
                Some(Slot::Reserved) | None => Err(ContainerError::Missing(format!("process {exec}"))),
            },
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot<Container>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn split(streams: HostStreams, plan: &ProcessPlan) -> Result<(ProcessStreams, AgentStreams), ContainerError> {
    match plan.terminal {
        Some(_) => Ok(stdio::terminal(streams)),
        None => Ok(stdio::pipes(streams, plan.uid, plan.gid)?),
    }
}

fn check_id(id: &str) -> Result<(), ContainerError> {
    let fits = (1..=MAX_ID_LEN).contains(&id.len()) && id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fits && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        Ok(())
    } else {
        Err(ContainerError::BadId(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_plain_name() {
        for good in ["a", "0123456789abcdef", "web_1.2-x", &"a".repeat(MAX_ID_LEN)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", "a b", "ä", "cgroup\0", &"a".repeat(MAX_ID_LEN + 1)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
