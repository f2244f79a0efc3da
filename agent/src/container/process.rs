//! A process of a container, from clone3 to its end.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    ContainerError,
    channel::{self, AgentEnd, NotExecuted, ProcessEnd},
    terminal,
};
use crate::{
    cgroup::Cgroup,
    plan::WindowSize,
    reaper::{ExitWatch, Reaper},
    stdio::{AgentStreams, End, HostStreams, Pumps},
    sys::copy_self,
};

/// Where a process is born.
pub(super) struct Birth<'a> {
    /// Namespaces to make, as flags of clone3(2).
    pub clone_flags: u64,
    /// The pid namespace to be born into, when it is not the guest's.
    pub pid_namespace: Option<OwnedFd>,
    /// None is the agent's own.
    pub cgroup: Option<&'a Cgroup>,
    pub reaper: &'a Reaper,
}

/// A process that was made, but has not said that it is ready.
pub(super) struct Newborn {
    pid: Pid,
    exit: ExitWatch,
    channel: AgentEnd,
    is_in_cgroup: bool,
}

#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    exit: ExitWatch,
    stage: Stage,
    terminal: Option<End>,
    pumps: Pumps,
    is_in_cgroup: bool,
}

/// An ended process is known by its watch: it ends when it likes, not when it is told.
#[derive(Debug)]
enum Stage {
    /// It waits for the word to go.
    Created(AgentEnd),
    /// It has got the word.
    Started,
}

/// Makes a process that runs `live` in a copy of the agent, and ends when that returns.
pub(super) fn bear(birth: &Birth<'_>, live: impl FnOnce(&ProcessEnd) -> i32) -> io::Result<Newborn> {
    let (ours, theirs) = channel::pair()?;
    let own = File::open("/proc/self/ns/pid")?;
    if let Some(namespace) = &birth.pid_namespace {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    }
    let pid = copy_self(birth.clone_flags, birth.cgroup.map(Cgroup::directory), || live(&theirs));
    if birth.pid_namespace.is_some() {
        // Only what is born later is concerned by it, never this process.
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    }
    let pid = pid?;
    let exit = birth.reaper.watch(pid);
    let channel = AgentEnd::new(ours).inspect_err(|_| {
        // It would see by itself that nobody talks to it; this is quicker.
        let _ = kill_process(pid, Signal::KILL);
    })?;
    Ok(Newborn { pid, exit, channel, is_in_cgroup: birth.cgroup.is_some() })
}

impl Newborn {
    /// Waits until it is ready, and connects its streams. One that cannot be made ready is gone afterwards.
    pub(super) async fn grow(self, streams: AgentStreams) -> Result<Process, ContainerError> {
        let Self { pid, mut exit, channel, is_in_cgroup } = self;
        let grown = async {
            let terminal = channel.ready().await?.map(End::new).transpose()?;
            let pumps = Pumps::start(streams, terminal.as_ref(), &exit)?;
            Ok::<_, ContainerError>((terminal, pumps))
        };
        match grown.await {
            Ok((terminal, pumps)) => {
                Ok(Process { pid, exit, stage: Stage::Created(channel), terminal, pumps, is_in_cgroup })
            }
            Err(error) => {
                // It may have ended by itself already.
                let _ = kill_process(pid, Signal::KILL);
                let _ = exit.wait_for(Option::is_some).await;
                Err(error)
            }
        }
    }
}

impl Process {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn exit(&self) -> ExitWatch {
        self.exit.clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// It got the word to go, and has not ended.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Started) && !self.has_ended()
    }

    /// It stands still and ends with the container's others.
    pub(super) fn is_in_cgroup(&self) -> bool {
        self.is_in_cgroup
    }

    /// Hands out the way to let it go; once.
    pub(super) fn start(&mut self) -> Option<Gate> {
        match std::mem::replace(&mut self.stage, Stage::Started) {
            Stage::Created(channel) => Some(Gate(channel)),
            Stage::Started => None,
        }
    }

    /// A pidfd, for as long as it has not ended.
    pub(super) fn open(&self) -> Result<OwnedFd, ContainerError> {
        if self.has_ended() {
            return Err(ContainerError::Ended);
        }
        Ok(pidfd_open(self.pid, PidfdFlags::empty()).map_err(io::Error::from)?)
    }

    /// The pid is not reused before the reaper has taken the process, which it cannot do meanwhile.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), ContainerError> {
        if self.has_ended() {
            return Err(ContainerError::Ended);
        }
        Ok(kill_process(self.pid, signal).map_err(io::Error::from)?)
    }

    pub(super) fn resize(&self, size: WindowSize) -> Result<(), ContainerError> {
        let terminal = self.terminal.as_ref().ok_or(ContainerError::NoTerminal)?;
        Ok(terminal::resize(terminal, size)?)
    }

    /// Gives it another host.
    pub(super) fn attach(&mut self, streams: HostStreams) {
        self.pumps.attach(streams);
    }

    pub(super) fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        self.pumps.drained()
    }
}

/// Holds a process back from its program.
pub(super) struct Gate(AgentEnd);

impl Gate {
    /// Returns when the program runs, or why it does not.
    pub(super) async fn open(self) -> Result<Option<NotExecuted>, ContainerError> {
        Ok(self.0.go().await?)
    }
}
