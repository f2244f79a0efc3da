//! The agent: PID 1 of a guest. It makes containers, joins their streams with the host's connections, and tells how they end.
//!
//! It has one thread, for two reasons: a copy of it (clone3 without execve) can do everything, and there is less to go wrong.
//! So nothing here may use `tokio::fs`, `spawn_blocking` or name resolution, which start threads.

mod cgroup;
mod connection;
mod container;
mod cpus;
mod disks;
mod identity;
mod init;
mod memory;
mod network;
mod plan;
mod reaper;
mod rpc;
mod seccomp;
mod shares;
mod spec;
mod statistics;
mod stdio;
mod streams;
mod sys;

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::Arc,
};

use rustix::net::{Shutdown, shutdown};
use securectr_protocol::{RPC_PORT, STDIO_PORT, agent_ttrpc, greeting};
use thiserror::Error;
use tokio::{io::Interest, net::UnixStream};
use ttrpc::asynchronous::{Server, transport::Listener};
use vsock::{VMADDR_CID_HOST, VsockStream};

pub use init::stages;
pub use streams::Streams;

use connection::Connection;
use rpc::Service;

#[derive(Debug, Error)]
pub enum AgentError {
    #[error(transparent)]
    Init(#[from] init::InitError),
    #[error("start the event loop")]
    Runtime(#[source] io::Error),
    #[error("listen on vsock port {STDIO_PORT}")]
    Listen(#[source] io::Error),
    #[error("connect to the host's vsock port {RPC_PORT}")]
    Connect(#[source] io::Error),
    #[error("watch the connection to the host")]
    Watch(#[source] io::Error),
    #[error("serve the host's requests")]
    Serve(#[source] ttrpc::Error),
    #[error("watch for ended processes")]
    Reaper(#[source] io::Error),
}

/// The whole life of the guest; when it returns, or cannot go on, the machine is reset.
pub fn guest() -> ! {
    init::report_panics();
    if let Err(error) = live() {
        init::last_words(&init::line(&error));
    }
    init::reset()
}

fn live() -> Result<(), AgentError> {
    init::guest()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Runtime)?;
    runtime.block_on(async {
        let streams = Streams::default();
        streams::listen(STDIO_PORT, streams.clone()).map_err(AgentError::Listen)?;
        let service = Service::new(streams).map_err(AgentError::Reaper)?;
        // A machine that goes on where this one is saved has another host: there the connection has ended, and that host waits for one.
        loop {
            serve_all(dial().map_err(AgentError::Connect)?, service.for_another()).await?;
        }
    })
}

/// The connection is the readiness: whoever accepts it may begin.
fn dial() -> io::Result<UnixStream> {
    let mut host = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, RPC_PORT)?;
    host.write_all(&greeting())?;
    streams::as_unix(host.into())
}

/// Serves requests on a connection until the other side closes it.
pub async fn serve(connection: UnixStream, streams: Streams) -> Result<(), AgentError> {
    serve_all(connection, Service::new(streams).map_err(AgentError::Reaper)?).await
}

async fn serve_all(connection: UnixStream, service: Service) -> Result<(), AgentError> {
    let other = connection.as_fd().try_clone_to_owned();
    let broken = other.and_then(|other| sys::watch(other, Interest::ERROR)).map_err(AgentError::Watch)?;
    let (connection, closed) = Connection::new(connection);
    let listener = Listener::new(futures::stream::iter([Ok(connection)]));
    let service = agent_ttrpc::create_agent(Arc::new(service));
    let mut server = Server::new().add_listener(listener).register_service(service);
    server.start().await.map_err(AgentError::Serve)?;
    tokio::select! {
        // Also when the connection is dropped without a word.
        _ = closed => {}
        // A vsock connection that is reset wakes nobody who only reads.
        _ = broken.ready(Interest::ERROR) => drop(shutdown(broken.get_ref(), Shutdown::Both)),
    }
    Ok(())
}
