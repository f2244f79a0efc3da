//! The host's side of the agent's RPCs: each with a deadline, each reply taken as a stranger's word.

mod control;

use std::{
    future::Future,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use securectr_protocol::{
    GREETING_LEN, PROTOCOL_VERSION,
    agent::{
        BeginRequest, ConfigureNetworkRequest, CreateRequest, DeleteRequest, ExecRequest, ProcessId,
        ResizeRequest, SignalRequest, StartRequest, StartResponse, WaitRequest, WaitResponse,
    },
    agent_ttrpc::AgentClient,
    greeted_version,
};
use thiserror::Error;
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};
use ttrpc::{asynchronous::transport::Socket, context};

use crate::id::random_bytes;

/// How long the agent may take for what does not wait for a container. Generous: the machine below may itself be emulated.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Twice of what the guest's kernel needs, in bytes.
const ENTROPY_LEN: usize = 64;

/// No text of the agent's is shown beyond this, in characters.
const MESSAGE_LIMIT: usize = 500;

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("draw random numbers for the guest")]
    Entropy(#[source] io::Error),
    #[error("the agent did not answer within {} s", ANSWER_LIMIT.as_secs())]
    Deadline,
    #[error("the connection to the agent is broken")]
    Broken,
    #[error("the guest's first bytes are not an agent's greeting")]
    NoGreeting,
    #[error(
        "the agent speaks protocol version {0}, this program {PROTOCOL_VERSION}: rebuild the guest image"
    )]
    Version(u32),
    /// The agent's words, without control characters.
    #[error("the agent refused: {0}")]
    Refused(String),
}

/// A connected agent.
pub(crate) struct Agent(AgentClient);

impl Agent {
    /// Waits for the greeting on the connection that the agent dials.
    pub(crate) async fn greet(mut stream: UnixStream) -> Result<Self, AgentError> {
        let mut greeting = [0; GREETING_LEN];
        match timeout(ANSWER_LIMIT, stream.read_exact(&mut greeting)).await {
            Err(_) => return Err(AgentError::Deadline),
            Ok(Err(_)) => return Err(AgentError::Broken),
            Ok(Ok(_)) => {}
        }
        match greeted_version(&greeting) {
            Some(PROTOCOL_VERSION) => {
                Ok(Self(AgentClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)))))
            }
            Some(other) => Err(AgentError::Version(other)),
            None => Err(AgentError::NoGreeting),
        }
    }

    /// Makes the guest a machine of its own, whatever memory it goes on with: with random numbers and a clock of now.
    pub(crate) async fn begin(&self) -> Result<(), AgentError> {
        let entropy = random_bytes::<ENTROPY_LEN>().map_err(AgentError::Entropy)?.to_vec();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nanoseconds fit until 2554.
        let request = BeginRequest { time_ns: now.as_nanos() as u64, entropy, ..Default::default() };
        bounded(self.0.begin(limit(), &request)).await.map(drop)
    }

    pub(crate) async fn configure_network(
        &self,
        request: &ConfigureNetworkRequest,
    ) -> Result<(), AgentError> {
        bounded(self.0.configure_network(limit(), request)).await.map(drop)
    }

    pub(crate) async fn create(&self, request: &CreateRequest) -> Result<(), AgentError> {
        bounded(self.0.create(limit(), request)).await.map(drop)
    }

    pub(crate) async fn exec(&self, request: &ExecRequest) -> Result<(), AgentError> {
        bounded(self.0.exec(limit(), request)).await.map(drop)
    }

    pub(crate) async fn start(&self, process: ProcessId) -> Result<StartResponse, AgentError> {
        let request = StartRequest { process: Some(process).into(), ..Default::default() };
        bounded(self.0.start(limit(), &request)).await
    }

    /// Waits as long as the process lives.
    pub(crate) async fn wait(&self, process: ProcessId) -> Result<WaitResponse, AgentError> {
        let request = WaitRequest { process: Some(process).into(), ..Default::default() };
        self.0.wait(context::Context::default(), &request).await.map_err(refused)
    }

    pub(crate) async fn signal(&self, process: ProcessId, signal: u32, all: bool) -> Result<(), AgentError> {
        let request = SignalRequest { process: Some(process).into(), signal, all, ..Default::default() };
        bounded(self.0.signal(limit(), &request)).await.map(drop)
    }

    pub(crate) async fn resize(&self, process: ProcessId, columns: u16, rows: u16) -> Result<(), AgentError> {
        let (columns, rows) = (columns.into(), rows.into());
        let request = ResizeRequest { process: Some(process).into(), columns, rows, ..Default::default() };
        bounded(self.0.resize(limit(), &request)).await.map(drop)
    }

    pub(crate) async fn delete(&self, process: ProcessId) -> Result<(), AgentError> {
        let request = DeleteRequest { process: Some(process).into(), ..Default::default() };
        bounded(self.0.delete(limit(), &request)).await.map(drop)
    }
}

fn limit() -> context::Context {
    context::with_duration(ANSWER_LIMIT)
}

/// The deadline is kept here, too: the agent may ignore the one it is told.
async fn bounded<T>(answer: impl Future<Output = ttrpc::Result<T>>) -> Result<T, AgentError> {
    match timeout(ANSWER_LIMIT, answer).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(AgentError::Deadline),
    }
}

fn refused(error: ttrpc::Error) -> AgentError {
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let words = status.message().chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT).collect();
            AgentError::Refused(words)
        }
        _ => AgentError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use securectr_protocol::greeting;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn greeted_with(bytes: &[u8]) -> Result<Agent, AgentError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        Agent::greet(ours).await
    }

    #[tokio::test]
    async fn an_agent_of_our_version_is_taken() {
        assert!(greeted_with(&greeting()).await.is_ok());
    }

    #[tokio::test]
    async fn an_agent_of_another_version_is_refused_by_number() {
        let mut bytes = greeting();
        bytes[16..].copy_from_slice(&1_u32.to_le_bytes());
        assert!(matches!(greeted_with(&bytes).await, Err(AgentError::Version(1))));
    }

    #[tokio::test]
    async fn a_stranger_is_refused() {
        assert!(matches!(greeted_with(&[b'?'; GREETING_LEN]).await, Err(AgentError::NoGreeting)));
        assert!(matches!(greeted_with(b"short").await, Err(AgentError::Broken)));
    }
}
