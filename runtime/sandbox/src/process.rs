//! A process as those who drive it see it: created, running, stopped, each at most once and in this order, whatever the guest says
//! and whether it says anything.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use crate::{End, ExitStatus, LaunchFailure, ProcessName, Reach, Sandbox, SandboxError};

/// A guest in which SIGKILL does nothing for this long hangs, and its machine is ended. Generous: the machine below may itself
/// be emulated.
const KILL_LIMIT: Duration = Duration::from_secs(20);

const SIGKILL: u32 = libc::SIGKILL as u32;

const KILLED: ExitStatus = ExitStatus::Signal(libc::SIGKILL as u8);

/// As a shell tells that a program was not found, or could not be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running,
    Stopped(Exit),
}

/// How and when a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub status: ExitStatus,
    pub at: SystemTime,
    /// The guest's kernel killed a process of its container for want of memory.
    pub oom_killed: bool,
    /// It was started before.
    pub was_started: bool,
    /// Its program could not be executed, which its start has told.
    pub not_executed: bool,
    /// The machine's end, when that is what ended it.
    pub cause: Option<End>,
}

impl Exit {
    fn now(status: ExitStatus) -> Self {
        let at = SystemTime::now();
        Self { status, at, oom_killed: false, was_started: false, not_executed: false, cause: None }
    }
}

#[derive(Debug, Error)]
pub enum KillError {
    #[error("the process has ended already")]
    Ended,
    #[error(transparent)]
    Sandbox(SandboxError),
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error("start a process that was started already")]
    Started,
    #[error("start a process that has ended")]
    Ended,
    #[error(transparent)]
    Launch(LaunchFailure),
    #[error(transparent)]
    Sandbox(SandboxError),
}

/// Watches over a process of the guest from its creation on, or stands for one.
pub struct Process {
    sandbox: Arc<Sandbox>,
    /// In the guest; none for one that stands for the machine.
    name: Option<ProcessName>,
    phase: watch::Sender<Phase>,
    /// Held while a start is under way, so that an end is told after it.
    starting: Mutex<()>,
}

impl Process {
    /// Takes over a process that [`Sandbox::create`] or [`Sandbox::exec`] has made. Must be called in a tokio runtime.
    pub fn watch(sandbox: Arc<Sandbox>, name: ProcessName) -> Arc<Self> {
        Self::begin(sandbox, Some(name), Phase::Created)
    }

    /// Takes over one that was started by another host.
    pub fn watch_started(sandbox: Arc<Sandbox>, name: ProcessName) -> Arc<Self> {
        Self::begin(sandbox, Some(name), Phase::Running)
    }

    /// One that has nothing in the guest and stands for the whole machine, as a pod's "pause" does: it runs until it is told to end,
    /// or the machine does.
    pub fn stand_in(sandbox: Arc<Sandbox>) -> Arc<Self> {
        Self::begin(sandbox, None, Phase::Created)
    }

    fn begin(sandbox: Arc<Sandbox>, name: Option<ProcessName>, phase: Phase) -> Arc<Self> {
        let phase = watch::Sender::new(phase);
        let process = Arc::new(Self { sandbox, name, phase, starting: Mutex::new(()) });
        let watched = Arc::clone(&process);
        tokio::spawn(async move {
            let exit = watched.exit().await;
            let _started = watched.starting.lock().await;
            watched.stop(exit);
        });
        process
    }

    async fn exit(&self) -> Exit {
        if let Some(name) = &self.name {
            match self.sandbox.wait(name).await {
                Ok((status, oom)) => return Exit { oom_killed: oom.0, ..Exit::now(status) },
                Err(SandboxError::Ended { .. }) => {}
                // The agent will not say how it ends: then it shall end now.
                Err(_) => self.sandbox.end(),
            }
        }
        let cause = Some(self.sandbox.ended().await);
        Exit { cause, ..Exit::now(KILLED) }
    }

    fn stop(&self, exit: Exit) {
        self.phase.send_if_modified(|phase| {
            let was_started = match phase {
                Phase::Stopped(_) => return false,
                Phase::Running => true,
                Phase::Created => false,
            };
            *phase = Phase::Stopped(Exit { was_started, ..exit });
            true
        });
    }

    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Tells each change; may be asked by several.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Answers when it has ended; may be asked by several and again.
    pub async fn wait(&self) -> Exit {
        let mut phases = self.phases();
        loop {
            if let Phase::Stopped(exit) = &*phases.borrow_and_update() {
                return exit.clone();
            }
            // We hold the sender ourselves.
            let _ = phases.changed().await;
        }
    }

    /// Lets its program run.
    pub async fn start(&self) -> Result<(), StartError> {
        let _starting = self.starting.lock().await;
        match self.phase() {
            Phase::Created => {}
            Phase::Running => return Err(StartError::Started),
            Phase::Stopped(_) => return Err(StartError::Ended),
        }
        let Some(name) = &self.name else {
            self.phase.send_replace(Phase::Running);
            return Ok(());
        };
        match self.sandbox.start(name).await {
            Ok(Ok(())) => {
                self.phase.send_replace(Phase::Running);
                Ok(())
            }
            Ok(Err(failure)) => {
                let status = match failure.source.kind() {
                    io::ErrorKind::NotFound => NOT_FOUND,
                    _ => NOT_EXECUTABLE,
                };
                self.stop(Exit { not_executed: true, ..Exit::now(ExitStatus::Code(status)) });
                Err(StartError::Launch(failure))
            }
            Err(error) => Err(StartError::Sandbox(error)),
        }
    }

    /// Sends a signal. SIGKILL always ends the process: where the guest does not do it, its machine is ended.
    pub async fn kill(self: &Arc<Self>, signal: u32, reach: Reach) -> Result<(), KillError> {
        if matches!(self.phase(), Phase::Stopped(_)) {
            return Err(KillError::Ended);
        }
        let Some(name) = &self.name else {
            self.kill_stand_in(signal);
            return Ok(());
        };
        let sent = self.sandbox.signal(name, signal, reach);
        if signal != SIGKILL {
            return sent.await.map_err(KillError::Sandbox);
        }
        let answered = timeout(KILL_LIMIT, sent).await;
        if !matches!(answered, Ok(Ok(()))) && !matches!(self.phase(), Phase::Stopped(_)) {
            self.sandbox.end();
        }
        let killed = Arc::clone(self);
        tokio::spawn(async move {
            if timeout(KILL_LIMIT, killed.wait()).await.is_err() {
                killed.sandbox.end();
            }
        });
        Ok(())
    }

    /// As "pause" takes signals.
    fn kill_stand_in(&self, signal: u32) {
        match i32::try_from(signal) {
            Ok(libc::SIGTERM | libc::SIGINT) => self.stop(Exit::now(ExitStatus::Code(0))),
            Ok(libc::SIGKILL) => self.stop(Exit::now(KILLED)),
            _ => {}
        }
    }

    /// Gives its terminal another size; one that is not running has none to show it on.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), SandboxError> {
        match (self.phase(), &self.name) {
            (Phase::Created | Phase::Running, Some(name)) => self.sandbox.resize(name, columns, rows).await,
            _ => Ok(()),
        }
    }
}
