//! A container that has ended, with a machine around its disk in which its program does not run: for a look at its files. This process holds
//! the machine; nothing of it is noted, for nothing of it stays.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use securectr_sandbox::{ContainerPlan, Process, ProcessName, Reach, Sandbox, SandboxId, StreamsWanted};
use tokio::{runtime::Builder, time::timeout};

use super::monitor::{Life, UNMOUNT_LIMIT};
use crate::{
    args::Global,
    container::{Audience, Book, Client, Located, Place, Served, serve_connection},
    copies::Held,
};

/// Ends with its last connection.
pub(crate) struct Idle(Option<JoinHandle<()>>);

impl Idle {
    /// Boots the machine. The container can be asked for what one that is created can.
    pub(crate) fn boot(located: &Located, global: &Global) -> Result<(Self, Client)> {
        let (ours, theirs) = UnixStream::pair().context("make a connection")?;
        theirs.set_nonblocking(true).context("make a connection")?;
        let (told, heard) = mpsc::channel();
        let (id, place, global) = (located.id.clone(), located.place()?, global.clone());
        let live = move || {
            let runtime = match Builder::new_current_thread().enable_all().build().context("start tokio") {
                Ok(runtime) => runtime,
                Err(error) => return drop(told.send(Err(error))),
            };
            runtime.block_on(async {
                match make(&id, &place, &global).await {
                    Ok(made) => {
                        let _ = told.send(Ok(()));
                        made.live(theirs).await;
                    }
                    Err(error) => drop(told.send(Err(error))),
                }
            });
        };
        let thread = thread::Builder::new().name("idle".into()).spawn(live).context("start a thread")?;
        let idle = Self(Some(thread));
        heard.recv().context("boot a machine")??;
        Ok((idle, Client::of(ours)))
    }
}

impl Drop for Idle {
    /// The machine lets go of the disk first. Connections to it must be gone, or this waits for them.
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

struct Made {
    sandbox: Arc<Sandbox>,
    plan: ContainerPlan,
    init: Arc<Process>,
    book: Book,
    held: Option<Held>,
}

async fn make(id: &SandboxId, place: &Place, global: &Global) -> Result<Made> {
    let record = place.read()?;
    let mut kept = record.kept.clone().context("the record is not that of a kept container")?;
    // Whose namespace it is may have gone, and nothing here speaks to anybody.
    kept.network = None;
    let life = Life { id, place, global };
    let held = life.hold()?;
    let (sandbox, plan) = life.boot(&kept).await?;
    let none = StreamsWanted { stdin: false, stdout: false, stderr: false };
    sandbox.create(&plan, none).await?;
    let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&plan.id));
    let book = Book::new(place.clone(), record, None);
    Ok(Made { sandbox, plan, init, book, held })
}

impl Made {
    async fn live(self, connection: UnixStream) {
        let Self { sandbox, plan, init, book, held } = self;
        let Ok(connection) = tokio::net::UnixStream::from_std(connection) else { return };
        let served = Served {
            sandbox: Arc::clone(&sandbox),
            init: Arc::clone(&init),
            plan: Arc::new(plan.clone()),
            book: Arc::new(Mutex::new(book)),
            poststart: Vec::new(),
            audience: Audience::nobody(),
            stdin: None,
        };
        serve_connection(connection, served).await;
        let gone = async {
            // It never began, and is gone when it is told to go.
            let _ = init.kill(libc::SIGKILL.unsigned_abs(), Reach::Process).await;
            init.wait().await;
            let _ = sandbox.delete(&plan).await;
        };
        let _ = timeout(UNMOUNT_LIMIT, gone).await;
        let _ = held.map(Held::settle);
    }
}
