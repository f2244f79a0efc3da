//! What containerd is told, in the order in which it happened. An event that cannot be delivered, as while containerd restarts, holds
//! up those behind it until it can.

use std::{env, path::PathBuf, time::Duration};

use containerd_shim_protos::{
    api::Empty,
    protobuf::{MessageDyn, MessageFull, well_known_types::any::Any},
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::{Client, EventsClient},
    ttrpc::{asynchronous::transport::Socket, context},
};
use thiserror::Error;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::status;

/// Names the socket on which containerd takes events.
pub(crate) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// containerd may take so long for one event.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// How long after a failure the next attempt begins.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long a server that is to end goes on trying.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
enum ForwardError {
    #[error("connect to containerd at {}", .0.display())]
    Connect(PathBuf, #[source] std::io::Error),
    #[error("hand an event over")]
    Forward(#[source] containerd_shim_protos::ttrpc::Error),
    #[error("containerd did not take an event within {} s", FORWARD_LIMIT.as_secs())]
    Deadline,
}

/// Takes events, from any task, in order.
#[derive(Clone)]
pub(crate) struct Events {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
}

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Must be called in a tokio runtime.
    pub(crate) fn start(namespace: String) -> Self {
        let (queue, items) = mpsc::unbounded_channel();
        let address = env::var(TTRPC_ADDRESS).unwrap_or_default();
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap_or(&address));
        tokio::spawn(deliver(path, items));
        Self { namespace, queue }
    }

    /// Tells an event, whose time is now.
    pub(crate) fn tell(&self, topic: &str, event: &impl MessageFull) {
        let Ok(value) = event.write_to_bytes() else { return };
        let type_url = event.descriptor_dyn().full_name().to_owned();
        let envelope = Envelope {
            timestamp: Some(status::timestamp(std::time::SystemTime::now())).into(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(Any { type_url, value, ..Default::default() }).into(),
            ..Default::default()
        };
        // The receiver lives as long as the runtime.
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Waits, for a while, until all that was told is delivered.
    pub(crate) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let _ = self.queue.send(Item::Flush(done));
        let _ = timeout(FLUSH_LIMIT, is_done).await;
    }
}

async fn deliver(path: PathBuf, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut client = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Flush(done) => drop(done.send(())),
            Item::Event(envelope) => {
                let request = ForwardRequest { envelope: Some(*envelope).into(), ..Default::default() };
                let mut complained = false;
                while let Err(error) = forward(&mut client, &path, &request).await {
                    if !std::mem::replace(&mut complained, true) {
                        eprintln!("{}", crate::line(&error));
                    }
                    client = None;
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    path: &PathBuf,
    request: &ForwardRequest,
) -> Result<Empty, ForwardError> {
    let connected = match client {
        Some(connected) => connected,
        None => {
            let stream =
                UnixStream::connect(path).await.map_err(|e| ForwardError::Connect(path.clone(), e))?;
            client.insert(EventsClient::new(Client::new(Socket::new(stream))))
        }
    };
    let limit = context::with_duration(FORWARD_LIMIT);
    match timeout(FORWARD_LIMIT, connected.forward(limit, request)).await {
        Ok(answer) => answer.map_err(ForwardError::Forward),
        Err(_) => Err(ForwardError::Deadline),
    }
}
