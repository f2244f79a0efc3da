//! The server of one pod, from its start to the last task's end.

use std::{
    collections::HashMap,
    fs::{self, File},
    future::pending,
    io::{self, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    sync::{Arc, Mutex},
};

use containerd_shim_protos::{
    sandbox_async::create_sandbox,
    shim_async::create_task,
    ttrpc::{
        self,
        asynchronous::{Server, Service as Methods, transport::Listener},
    },
};
use nix::unistd::dup2_stdout;
use securectr_sandbox::{
    Host, Installation, InstallationError, StateError, StateRoot, Templates, default_store,
};
use thiserror::Error;
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, unix::pipe::Receiver},
    runtime::Runtime,
    sync::Notify,
};

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

#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("take over the socket")]
    Socket(#[source] io::Error),
    #[error("take over the pipe from the action start")]
    Pipe(#[source] io::Error),
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
    let answered = take_stdout().map_err(ServeError::Pipe)?;
    let address = listener.local_addr().map_err(ServeError::Socket)?;
    listener.set_nonblocking(true).map_err(ServeError::Socket)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let served = serve_pod(args, runtime, listener, answered);
    if let Some(path) = address.as_pathname() {
        let _ = fs::remove_file(path);
    }
    served
}

/// Until its end. The cgroup that the pod was in is left behind it.
fn serve_pod(
    args: &Args,
    runtime: Runtime,
    listener: StdUnixListener,
    answered: OwnedFd,
) -> Result<(), ServeError> {
    let host = host(args)?;
    let pod = {
        let _in_runtime = runtime.enter();
        Arc::new(Pod::new(args.namespace.clone(), host, Events::start(args.namespace.clone())))
    };
    let served = runtime.block_on(until_shutdown(Arc::clone(&pod), listener, answered));
    runtime.shutdown_background();
    let membership = pod.membership();
    drop(pod);
    if let Some(membership) = membership {
        membership.leave();
    }
    served
}

/// What is said there from now on is lost.
fn take_stdout() -> io::Result<OwnedFd> {
    let taken = stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(taken)
}

fn host(args: &Args) -> Result<Host, ServeError> {
    // Who wants to see how a guest boots sees one boot.
    let store = default_store().filter(|_| !args.debug);
    Ok(Host {
        installation: Installation::find()?,
        state: StateRoot::open()?,
        echo_console: args.debug,
        templates: store.and_then(|store| Templates::in_store(&store)),
    })
}

async fn until_shutdown(
    pod: Arc<Pod>,
    listener: StdUnixListener,
    answered: OwnedFd,
) -> Result<(), ServeError> {
    let answered = Receiver::from_owned_fd(answered).map_err(ServeError::Pipe)?;
    let listener = UnixListener::from_std(listener).map_err(ServeError::Socket)?;
    let events = pod.events.clone();
    let shutdown = Arc::new(Notify::new());
    let tasks = Arc::new(service::Service { pod: Arc::clone(&pod), shutdown: Arc::clone(&shutdown) });
    let sandbox = sandbox_service::Service { pod, shutdown: Arc::clone(&shutdown), made: Mutex::default() };
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(named(TASK_V2, create_task(Arc::clone(&tasks) as _)))
        .register_service(named(TASK_V3, create_task(tasks as _)))
        .register_service(create_sandbox(Arc::new(sandbox)));
    server.start().await.map_err(ServeError::Serve)?;
    tokio::select! {
        () = shutdown.notified() => {}
        () = orphaned(answered) => {}
    }
    events.flush().await;
    server.shutdown().await.map_err(ServeError::Serve)
}

/// Returns when `start` has died before its answer was given: nobody knows of this server.
async fn orphaned(mut answered: Receiver) {
    if answered.read_u8().await.is_ok() {
        pending::<()>().await;
    }
}

/// The only service that the generated code makes, under a name of our choice.
fn named(name: &str, services: HashMap<String, Methods>) -> HashMap<String, Methods> {
    services.into_values().map(|methods| (name.to_owned(), methods)).collect()
}
