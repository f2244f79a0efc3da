//! This process as one of a container's: it carries the streams, takes signals for it, and ends as it ends.

use std::{os::fd::OwnedFd, os::unix::net::UnixStream, thread};

use anyhow::{Context, Result};
use securectr_sandbox::Streams;
use tokio::sync::{mpsc, oneshot};

use super::control::{Answer, Client, Request, Wanted};
use crate::{
    signals::{self, Outside},
    streams::Output,
};

/// As a shell tells SIGKILL.
pub(crate) const KILLED: u8 = 128 + 9;

/// Whose companion it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The container's first process.
    Init,
    /// That which the connection has added.
    Added,
}

impl Whose {
    fn kill(self, signal: u32) -> Request {
        match self {
            Self::Init => Request::Kill { signal, all: false },
            Self::Added => Request::KillExec { signal },
        }
    }

    pub(crate) fn resize(self, (columns, rows): (u16, u16)) -> Request {
        match self {
            Self::Init => Request::Resize { columns, rows },
            Self::Added => Request::ResizeExec { columns, rows },
        }
    }

    fn wait(self) -> Request {
        match self {
            Self::Init => Request::Wait,
            Self::Added => Request::WaitExec,
        }
    }
}

pub(crate) struct Companion<S> {
    pub client: Client,
    pub whose: Whose,
    pub output: Output,
    /// That of the terminal on this side, if there is one.
    pub size: S,
    /// Signals of ours are the process's.
    pub passes_signals: bool,
    /// Told when the user lets go of it.
    pub detached: Option<oneshot::Receiver<()>>,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// With its code.
    Ended(u8),
    /// It goes on without us.
    Detached,
}

impl<S: Fn() -> Option<(u16, u16)>> Companion<S> {
    /// Until its end, or ours.
    pub(crate) async fn accompany(mut self) -> Result<Left> {
        let mut outside = signals::listen().context("listen to signals")?;
        let mut exited = self.hear_exit()?;
        let mut detached = std::pin::pin!(told(self.detached.take()));
        let code = loop {
            tokio::select! {
                exited = &mut exited => break exited.context("hear the container's monitor")?,
                () = &mut detached => return Ok(Left::Detached),
                Some(event) = outside.recv() => match event {
                    Outside::Signal(_) if !self.passes_signals => return Ok(Left::Detached),
                    event => self.pass_on(event),
                }
            }
        };
        self.finish(&mut outside).await;
        Ok(Left::Ended(code))
    }

    /// In a thread, since answers to signals may come before it.
    fn hear_exit(&self) -> Result<oneshot::Receiver<u8>> {
        let (said, heard) = oneshot::channel();
        let client = self.client.try_clone()?;
        client.tell(&self.whose.wait())?;
        thread::Builder::new().name("exit".into()).spawn(move || {
            let code = loop {
                match client.hear() {
                    Ok((Answer::Exited(code), _)) => break code,
                    Ok(_) => {}
                    // What it was asked besides can be refused; a monitor that has gone cannot be heard.
                    Err(error) if error.is::<super::control::Refused>() => {}
                    // The monitor ends with its container, and all processes with both.
                    Err(_) => break KILLED,
                }
            };
            let _ = said.send(code);
        })?;
        Ok(heard)
    }

    fn pass_on(&self, event: Outside) {
        let request = match event {
            Outside::Signal(number) => Some(self.whose.kill(number.unsigned_abs())),
            Outside::Resized => (self.size)().map(|size| self.whose.resize(size)),
        };
        if let Some(request) = request {
            // A monitor that is gone is told by the exit.
            let _ = self.client.tell(&request);
        }
    }

    async fn finish(self, outside: &mut mpsc::Receiver<Outside>) {
        tokio::select! {
            () = self.output.written() => {}
            _ = outside.recv() => {}
        }
    }
}

async fn told(detached: Option<oneshot::Receiver<()>>) {
    match detached {
        // Who could tell it has gone: nobody will.
        Some(detached) => match detached.await {
            Ok(()) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The descriptors of an answer as the streams that were wanted.
pub(crate) fn streams(fds: Vec<OwnedFd>, wanted: Wanted) -> Result<Streams> {
    let mut fds = fds.into_iter().map(UnixStream::from);
    let mut take = |wanted: bool| match wanted {
        false => Ok(None),
        true => fds.next().map(Some).context("the monitor sent fewer streams than were asked for"),
    };
    Ok(Streams { stdin: take(wanted.stdin)?, stdout: take(wanted.stdout)?, stderr: take(wanted.stderr)? })
}
