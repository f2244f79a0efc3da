//! The server of one pod, from its start to the last task's end.

use std::{
    collections::HashMap,
    fs,
    future::pending,
    io::{self, stdin},
    os::{fd::AsFd, unix::net::UnixListener as StdUnixListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use containerd_shim_protos::{
    sandbox_async::create_sandbox,
    shim_async::create_task,
    ttrpc::{
        self,
        asynchronous::{Server, Service as Methods, transport::Listener},
    },
};
use securectr_sandbox::{Host, Installation, InstallationError, StateError, StateRoot};
use thiserror::Error;
use tokio::{net::UnixListener, sync::Notify, time::sleep};

use crate::{
    args::Args,
    events::Events,
    mounts::{self, MountError},
    pod::Pod,
    sandbox_service, service,
};

/// The task service's name up to containerd 1.7, and from containerd 2 on: the messages are the same.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

/// containerd asks for a task, or a sandbox, as soon as it knows the server's address.
const FIRST_CALL_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("take over the socket")]
    Socket(#[source] io::Error),
    #[error("start the event loop")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("serve containerd")]
    Serve(#[source] ttrpc::Error),
}

pub(crate) fn serve(args: &Args) -> Result<(), ServeError> {
    mounts::own_namespace()?;
    let listener = stdin().as_fd().try_clone_to_owned().map_err(ServeError::Socket)?;
    let listener = StdUnixListener::from(listener);
    let address = listener.local_addr().map_err(ServeError::Socket)?;
    listener.set_nonblocking(true).map_err(ServeError::Socket)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let pod = {
        let _in_runtime = runtime.enter();
        Arc::new(Pod::new(args.namespace.clone(), host(args)?, Events::start(args.namespace.clone())))
    };
    let served = runtime.block_on(until_shutdown(Arc::clone(&pod), listener));
    if let Some(path) = address.as_pathname() {
        let _ = fs::remove_file(path);
    }
    runtime.shutdown_background();
    let membership = pod.membership();
    drop(pod);
    if let Some(membership) = membership {
        membership.leave();
    }
    served
}

fn host(args: &Args) -> Result<Host, ServeError> {
    Ok(Host { installation: Installation::find()?, state: StateRoot::open()?, echo_console: args.debug })
}

async fn until_shutdown(pod: Arc<Pod>, listener: StdUnixListener) -> Result<(), ServeError> {
    let listener = UnixListener::from_std(listener).map_err(ServeError::Socket)?;
    let events = pod.events.clone();
    let shutdown = Arc::new(Notify::new());
    let tasks = Arc::new(service::Service { pod: Arc::clone(&pod), shutdown: Arc::clone(&shutdown) });
    let sandbox = sandbox_service::Service {
        pod: Arc::clone(&pod),
        shutdown: Arc::clone(&shutdown),
        made: Mutex::default(),
    };
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(named(TASK_V2, create_task(Arc::clone(&tasks) as _)))
        .register_service(named(TASK_V3, create_task(tasks as _)))
        .register_service(create_sandbox(Arc::new(sandbox)));
    server.start().await.map_err(ServeError::Serve)?;
    tokio::select! {
        () = shutdown.notified() => {}
        () = unwanted(&pod) => {}
    }
    events.flush().await;
    server.shutdown().await.map_err(ServeError::Serve)
}

/// Returns when nothing was asked for in time. Whoever was to call may have died between the server's start and the first call.
async fn unwanted(pod: &Pod) {
    sleep(FIRST_CALL_LIMIT).await;
    if pod.is_in_use() {
        pending::<()>().await;
    }
}

/// The only service that the generated code makes, under a name of our choice.
fn named(name: &str, services: HashMap<String, Methods>) -> HashMap<String, Methods> {
    services.into_values().map(|methods| (name.to_owned(), methods)).collect()
}
