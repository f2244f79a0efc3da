//! The agent: PID 1 of a guest. It makes containers, joins their streams with the host's connections, and tells how they end.
//!
//! It has one thread, for two reasons: a copy of it (clone3 without execve) can do everything, and there is less to go wrong.
//! So nothing here may use `tokio::fs`, `spawn_blocking` or name resolution, which start threads.

mod cgroup;
mod connection;
mod container;
mod cpus;
mod disks;
mod init;
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
    sync::Arc,
};

use securectr_protocol::{RPC_PORT, STDIO_PORT, agent_ttrpc, greeting};
use thiserror::Error;
use tokio::net::UnixStream;
use ttrpc::asynchronous::{Server, transport::Listener};
use vsock::{VMADDR_CID_HOST, VsockStream};

pub use init::stages;
pub use streams::Streams;

use connection::Connection;
use container::Containers;
use cpus::Cpus;
use reaper::Reaper;
use rpc::Service;
use shares::Shares;

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
        serve(dial().map_err(AgentError::Connect)?, streams).await
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
    let reaper = Reaper::start().map_err(AgentError::Reaper)?;
    let cpus = Cpus::new(reaper.clone());
    let service = Service { containers: Containers::new(reaper), streams, cpus, shares: Shares::default() };
    let (connection, closed) = Connection::new(connection);
    let listener = Listener::new(futures::stream::iter([Ok(connection)]));
    let service = agent_ttrpc::create_agent(Arc::new(service));
    let mut server = Server::new().add_listener(listener).register_service(service);
    server.start().await.map_err(AgentError::Serve)?;
    // Also when the connection is dropped without a word.
    let _ = closed.await;
    Ok(())
}
