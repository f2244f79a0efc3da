//! Every process that ends in the guest is reaped here, also those that were left to PID 1.
//! One lock, never held across an await.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::sys::copy_self;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Exit {
    Code(u32),
    Signal(u32),
}

/// Becomes `Some` when the process has ended.
pub(crate) type ExitWatch = watch::Receiver<Option<Exit>>;

/// Waits for what [`Reaper::apart`] does. That it was killed is no error of its own.
pub(crate) async fn outcome(mut process: ExitWatch) -> io::Result<()> {
    match process.wait_for(Option::is_some).await.map_or(None, |exit| *exit) {
        Some(Exit::Code(errno @ 1..)) => Err(io::Error::from_raw_os_error(errno as i32)),
        _ => Ok(()),
    }
}

#[derive(Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<HashMap<i32, watch::Sender<Option<Exit>>>>>);

impl Reaper {
    /// Begins to reap. There must be one only.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let children = signal(SignalKind::child())?;
        tokio::spawn(reaper.clone().run(children));
        Ok(reaper)
    }

    /// Does work that takes a while in a copy of this process, which has other things to do meanwhile; [`outcome`] tells how it went. Must
    /// be called in a runtime of one thread, as all copies are made.
    pub(crate) fn apart(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<ExitWatch> {
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        // All errnos fit an exit code.
        let pid = copy_self(0, None, || work().map_or_else(errno, |()| 0))?;
        Ok(self.watch(pid))
    }

    /// Must be called before the task that made the process awaits anything, so that its end cannot be missed.
    pub(crate) fn watch(&self, pid: Pid) -> ExitWatch {
        let (sender, receiver) = watch::channel(None);
        self.lock().insert(pid.as_raw_nonzero().get(), sender);
        receiver
    }

    async fn run(self, mut children: Signal) {
        while children.recv().await.is_some() {
            // One signal may stand for several ends.
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
        }
    }

    fn ended(&self, pid: Pid, status: WaitStatus) {
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code.unsigned_abs()),
            (None, Some(signal)) => Exit::Signal(signal.unsigned_abs()),
            // Stopped or continued: it lives.
            (None, None) => return,
        };
        if let Some(sender) = self.lock().remove(&pid.as_raw_nonzero().get()) {
            sender.send_replace(Some(exit));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<Exit>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
