//! The server of one pod, from its start to the last task's end.

use std::{
    collections::HashMap,
    fs,
    io::{self, stdin},
    os::{fd::AsFd, unix::net::UnixListener as StdUnixListener},
    path::Path,
    sync::Arc,
};

use containerd_shim_protos::{
    shim_async::create_task,
    ttrpc::{
        self,
        asynchronous::{Server, Service as Methods, transport::Listener},
    },
};
use securectr_sandbox::{Host, HostCgroup, Installation, InstallationError, StateError, StateRoot};
use thiserror::Error;
use tokio::{net::UnixListener, sync::Notify};

use crate::{
    args::Args,
    bundle,
    events::Events,
    mounts::{self, MountError},
    pod::Pod,
    service::Service,
};

/// The task service's name up to containerd 1.7, and from containerd 2 on: the messages are the same.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";

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
    let cgroup = enter_cgroup();
    let served = runtime.block_on(until_shutdown(args, listener));
    if let Some(path) = address.as_pathname() {
        let _ = fs::remove_file(path);
    }
    runtime.shutdown_background();
    if let Some((pods, own)) = cgroup {
        // A cgroup that somebody is in cannot be removed.
        if own.enter().is_ok() {
            pods.remove();
        }
    }
    served
}

/// The pod's cgroup, and the one that we come from. Without it what the pod costs is counted for containerd, and nothing else is wrong.
fn enter_cgroup() -> Option<(HostCgroup, HostCgroup)> {
    let own = HostCgroup::own()?;
    let spec = bundle::spec(Path::new(".")).ok()?;
    let pods = HostCgroup::of(&spec).inspect_err(|error| eprintln!("{}", crate::line(error))).ok()??;
    pods.enter().inspect_err(|error| eprintln!("{}", crate::line(error))).ok()?;
    Some((pods, own))
}

async fn until_shutdown(args: &Args, listener: StdUnixListener) -> Result<(), ServeError> {
    let host =
        Host { installation: Installation::find()?, state: StateRoot::open()?, echo_console: args.debug };
    let listener = UnixListener::from_std(listener).map_err(ServeError::Socket)?;
    let events = Events::start(args.namespace.clone());
    let pod = Arc::new(Pod::new(args.namespace.clone(), host, events.clone()));
    let shutdown = Arc::new(Notify::new());
    let service = Arc::new(Service { pod, shutdown: Arc::clone(&shutdown) });
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(named(TASK_V2, create_task(Arc::clone(&service) as _)))
        .register_service(named(TASK_V3, create_task(service as _)));
    server.start().await.map_err(ServeError::Serve)?;
    shutdown.notified().await;
    events.flush().await;
    server.shutdown().await.map_err(ServeError::Serve)
}

/// The only service that the generated code makes, under a name of our choice.
fn named(name: &str, services: HashMap<String, Methods>) -> HashMap<String, Methods> {
    services.into_values().map(|methods| (name.to_owned(), methods)).collect()
}
