//! A monitor's work while its container lives.

use std::{
    os::unix::net::UnixStream,
    pin::pin,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use oci_spec::runtime::Hook;
use securectr_sandbox::{ContainerPlan, Denial, Exit, Process, Reach, Sandbox, Streams};
use tokio::{
    net::UnixListener,
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{
    audience::Audience,
    book::{Book, locked},
    budget::{Budget, Meter, Spent},
    journal::Action,
    record::{LAST_WORDS_LIMIT, Status},
    serve,
};
use crate::{
    signals::Outside,
    streams::{self, Ends, Output},
    timeline::Timeline,
};

/// A container's streams on this side, as long as it lives.
pub(crate) struct Joined {
    output: Output,
    audience: Audience,
    /// Its input, for those who attach to it.
    stdin: Option<Arc<UnixStream>>,
    meter: Arc<Meter>,
}

impl Joined {
    pub(crate) fn new(streams: Streams, ends: Ends, budget: &Budget, timeline: &Timeline) -> Result<Self> {
        let meter = Arc::new(budget.meter());
        let (audience, ends) = Audience::beside(ends, &meter);
        let stdin = streams.stdin.as_ref().map(UnixStream::try_clone).transpose();
        let stdin = stdin.context("share the container's input")?.map(Arc::new);
        let output = streams::join(streams, ends, timeline).context("join the container's streams")?;
        Ok(Self { output, audience, stdin, meter })
    }
}

/// A container with what is needed while it lives.
pub(crate) struct Watched {
    pub sandbox: Arc<Sandbox>,
    pub plan: Arc<ContainerPlan>,
    pub init: Arc<Process>,
    pub joined: Joined,
    pub listener: UnixListener,
    /// The host's hooks for after its start.
    pub poststart: Vec<Hook>,
    pub book: Arc<Mutex<Book>>,
    pub budget: Budget,
    /// Heard from the machine's boot on.
    pub denials: Option<broadcast::Receiver<Denial>>,
}

/// How a container's last output is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastWords {
    /// A slow reader does not hold its end up for long.
    Bounded,
    /// A signal cuts it short.
    UntilSignal,
}

/// How a container ended.
pub(crate) struct Watch {
    pub exit: Exit,
    /// What it had used up, when it was ended for that.
    pub spent: Option<Spent>,
}

impl Watched {
    /// Serves those who connect, passes signals on and holds it to its budget, until its end. `size` is that of its terminal on this
    /// side; `warn` hears what somebody who looks at it should know.
    pub(crate) async fn watch(
        mut self,
        mut outside: mpsc::Receiver<Outside>,
        size: impl Fn() -> Option<(u16, u16)>,
        last_words: LastWords,
        warn: impl Fn(&str),
    ) -> Result<Watch> {
        let mut denials = self.denials.take();
        let (mut lost, mut is_cut_off) = (pin!(self.sandbox.network_lost()), false);
        let mut connections = JoinSet::new();
        self.sandbox.heed_pressure();
        let mut spent = None;
        let mut spending = pin!(self.budget.spent(&self.sandbox, &self.joined.meter));
        let exit = loop {
            tokio::select! {
                biased;
                exit = self.init.wait() => break exit,
                over = &mut spending, if spent.is_none() => {
                    spent = Some(over);
                    // One that has ended meanwhile is what is wanted.
                    let _ = self.init.kill(libc::SIGKILL.unsigned_abs(), Reach::Container).await;
                }
                Ok(denial) = next(&mut denials) => {
                    warn(&format!("the container may not reach {denial}"));
                    locked(&self.book).note(&Action::NetworkDenied(denial));
                }
                words = &mut lost, if !is_cut_off => {
                    warn(&format!("the container has no network any more: {words}"));
                    locked(&self.book).note_loss(words)?;
                    is_cut_off = true;
                }
                Ok((connection, _)) = self.listener.accept() => {
                    connections.spawn(serve::serve(connection, self.served()));
                }
                Some(event) = outside.recv() => self.hear(event, &size).await,
            }
        };
        // Who finds it stopped may want its devices back.
        self.sandbox.take_back_devices(&self.plan).await;
        locked(&self.book).turn(Status::Stopped)?;
        let written = self.joined.output.written();
        match last_words {
            LastWords::Bounded => drop(timeout(LAST_WORDS_LIMIT, written).await),
            LastWords::UntilSignal => tokio::select! {
                () = written => {}
                () = a_signal(&mut outside) => {}
            },
        }
        let _ = timeout(LAST_WORDS_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
        Ok(Watch { exit, spent })
    }

    /// What a connection acts on.
    fn served(&self) -> serve::Container {
        serve::Container {
            sandbox: Arc::clone(&self.sandbox),
            init: Arc::clone(&self.init),
            plan: Arc::clone(&self.plan),
            book: Arc::clone(&self.book),
            poststart: self.poststart.clone(),
            audience: self.joined.audience.clone(),
            stdin: self.joined.stdin.clone(),
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

/// The next that is told; never, where nothing is denied.
async fn next(
    denials: &mut Option<broadcast::Receiver<Denial>>,
) -> Result<Denial, broadcast::error::RecvError> {
    match denials {
        Some(denials) => denials.recv().await,
        None => std::future::pending().await,
    }
}

async fn a_signal(outside: &mut mpsc::Receiver<Outside>) {
    while !matches!(outside.recv().await, Some(Outside::Signal(_)) | None) {}
}
