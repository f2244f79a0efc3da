//! A monitor's work while its container lives.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use oci_spec::runtime::Hook;
use securectr_sandbox::{ContainerPlan, Exit, Process, Reach, Sandbox};
use tokio::{net::UnixListener, task::JoinSet, time::timeout};

use super::{
    book::{Book, locked},
    record::{LAST_WORDS_LIMIT, Status},
    serve,
};
use crate::{
    signals::{self, Outside},
    streams::Output,
};

/// A container with what is needed while it lives.
pub(crate) struct Watched {
    pub sandbox: Arc<Sandbox>,
    pub plan: ContainerPlan,
    pub init: Arc<Process>,
    pub output: Output,
    pub listener: UnixListener,
    /// The host's hooks for after its start.
    pub poststart: Vec<Hook>,
    pub book: Arc<Mutex<Book>>,
}

impl Watched {
    /// Serves those who connect and passes signals on, until its end. `size` is that of its terminal on this side.
    pub(crate) async fn watch(self, size: impl Fn() -> Option<(u16, u16)>) -> Result<Exit> {
        let mut outside = signals::listen().context("listen to signals")?;
        let mut connections = JoinSet::new();
        let exit = loop {
            tokio::select! {
                exit = self.init.wait() => break exit,
                Ok((connection, _)) = self.listener.accept() => {
                    connections.spawn(serve::serve(connection, self.served()));
                }
                Some(event) = outside.recv() => self.hear(event, &size).await,
            }
        };
        // Who finds it stopped may want its devices back.
        self.sandbox.take_back_devices(&self.plan).await;
        locked(&self.book).turn(Status::Stopped)?;
        let _ = timeout(LAST_WORDS_LIMIT, self.output.written()).await;
        let _ = timeout(LAST_WORDS_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
        Ok(exit)
    }

    /// What a connection acts on.
    pub(crate) fn served(&self) -> serve::Container {
        serve::Container {
            sandbox: Arc::clone(&self.sandbox),
            init: Arc::clone(&self.init),
            id: self.plan.id.clone(),
            book: Arc::clone(&self.book),
            poststart: self.poststart.clone(),
        }
    }

    /// A signal to the monitor's pid is one to the container.
    async fn hear(&self, event: Outside, size: impl Fn() -> Option<(u16, u16)>) {
        match event {
            Outside::Signal(number) => {
                let _ = self.init.kill(number.unsigned_abs(), Reach::Process).await;
            }
            Outside::Resized => {
                if let Some((columns, rows)) = size() {
                    let _ = self.init.resize(columns, rows).await;
                }
            }
        }
    }
}
