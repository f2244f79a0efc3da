//! The host's stream connections, between their arrival and the request that names them.
//! One lock, never held across an await.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener};

use crate::sys::watch;

/// More connections than this do not wait; the host makes three before each process.
const MOST_UNCLAIMED: usize = 64;

/// How long a connection waits to be named.
const UNCLAIMED_LIMIT: Duration = Duration::from_secs(60);

/// How long a request waits for the connections that it names: they were made before it, but are accepted beside it.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// Errors cannot make the agent busy.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, Error)]
pub(crate) enum StreamsError {
    #[error("no stream has come from the host's port {0}")]
    Missing(u32),
}

struct Unclaimed {
    since: Instant,
    stream: UnixStream,
}

#[derive(Clone, Default)]
pub struct Streams(Arc<Shared>);

#[derive(Default)]
struct Shared {
    unclaimed: Mutex<BTreeMap<u32, Unclaimed>>,
    arrived: Notify,
}

impl Streams {
    /// Takes in a connection from a port of the host. What came too long ago, or is too much, is closed.
    pub fn arrive(&self, port: u32, stream: UnixStream) {
        let since = Instant::now();
        let mut unclaimed = self.lock();
        unclaimed.retain(|_, waiting| waiting.since.elapsed() < UNCLAIMED_LIMIT);
        if unclaimed.len() < MOST_UNCLAIMED {
            unclaimed.insert(port, Unclaimed { since, stream });
            self.0.arrived.notify_waiters();
        }
    }

    /// Hands out the connection from a port; 0 is none.
    pub(crate) async fn claim(&self, port: u32) -> Result<Option<UnixStream>, StreamsError> {
        if port == 0 {
            return Ok(None);
        }
        let claimed = timeout(CLAIM_LIMIT, async {
            loop {
                let arrived = self.0.arrived.notified();
                if let Some(claimed) = self.lock().remove(&port) {
                    return claimed.stream;
                }
                arrived.await;
            }
        });
        claimed.await.map(Some).map_err(|_| StreamsError::Missing(port))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Unclaimed>> {
        self.0.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections on a vsock port, for as long as the guest lives.
pub(crate) fn listen(port: u32, streams: Streams) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    listener.set_nonblocking(true)?;
    let listener = watch(listener, Interest::READABLE)?;
    tokio::spawn(async move {
        loop {
            match accept(&listener).await {
                Ok((port, stream)) => streams.arrive(port, stream),
                // Of one connection that went away or was refused; or there is no descriptor left, which may pass.
                Err(_) => sleep(ERROR_PAUSE).await,
            }
        }
    });
    Ok(())
}

async fn accept(listener: &AsyncFd<VsockListener>) -> io::Result<(u32, UnixStream)> {
    let (stream, peer) = listener.async_io(Interest::READABLE, VsockListener::accept).await?;
    // A container can reach this port, too.
    if peer.cid() != VMADDR_CID_HOST {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok((peer.port(), as_unix(stream.into())?))
}

/// A connected stream socket in the one type that the rest of the agent knows: reading, writing and shutting down are the same.
pub(crate) fn as_unix(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    #[tokio::test]
    async fn a_stream_is_handed_out_once_and_to_its_port() {
        let streams = Streams::default();
        streams.arrive(7, stream());
        assert!(streams.claim(0).await.unwrap().is_none());
        assert!(streams.claim(7).await.unwrap().is_some());
        tokio::time::pause();
        assert!(matches!(streams.claim(7).await, Err(StreamsError::Missing(7))));
    }

    #[tokio::test]
    async fn a_request_waits_for_a_stream_that_is_on_its_way() {
        let streams = Streams::default();
        let claim = tokio::spawn({
            let streams = streams.clone();
            async move { streams.claim(8).await }
        });
        tokio::task::yield_now().await;
        streams.arrive(9, stream());
        streams.arrive(8, stream());
        assert!(claim.await.unwrap().unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_claims_is_closed() {
        let streams = Streams::default();
        streams.arrive(1, stream());
        tokio::time::advance(UNCLAIMED_LIMIT).await;
        streams.arrive(2, stream());
        assert_eq!(streams.lock().len(), 1);
        for port in 0..200 {
            streams.arrive(1000 + port, stream());
        }
        assert_eq!(streams.lock().len(), MOST_UNCLAIMED);
    }
}
