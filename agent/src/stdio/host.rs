//! A stream's end on the host's side, which can be lost with the host: a machine that goes on where another was saved has another host,
//! and the processes in it are to notice nothing. They wait until that one has made a stream of its own.

use std::io;

use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

/// By which a stream comes that takes the place of one. When this is dropped, none comes, and the one there is has an end.
pub(super) type Successors = mpsc::Sender<UnixStream>;

pub(super) struct Host {
    state: State,
    successors: mpsc::Receiver<UnixStream>,
}

enum State {
    Open(UnixStream),
    Lost,
    /// The host has taken, or given, all that it wants.
    Closed,
}

impl Host {
    pub(super) fn new(stream: UnixStream) -> (Self, Successors) {
        let (sender, successors) = mpsc::channel(1);
        (Self { state: State::Open(stream), successors }, sender)
    }

    /// Whether the host has taken all of it.
    pub(super) async fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let written = tokio::select! {
                biased;
                successor = self.successors.recv() => match successor {
                    Some(stream) => { self.state = State::Open(stream); continue }
                    None => return false,
                },
                written = self.state.write(bytes) => written,
            };
            match written {
                Ok(0) => return false,
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(error) => self.state = State::after(&error),
            }
        }
        true
    }

    /// How many bytes the host has given; none at its end.
    pub(super) async fn give(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            let read = tokio::select! {
                biased;
                successor = self.successors.recv() => match successor {
                    Some(stream) => { self.state = State::Open(stream); continue }
                    None => return 0,
                },
                read = self.state.read(buffer) => read,
            };
            match read {
                Ok(len) => return len,
                Err(error) => self.state = State::after(&error),
            }
        }
    }

    /// Tells the host that this was all.
    pub(super) async fn shut(mut self) {
        if let State::Open(stream) = &mut self.state {
            let _ = stream.shutdown().await;
        }
    }
}

impl State {
    /// A vsock connection that a reset of the transport has ended is told from one that the host has closed: reading and writing find
    /// it unconnected, and not an end or a broken pipe.
    fn after(error: &io::Error) -> Self {
        if Errno::from_io_error(error) == Some(Errno::NOTCONN) { Self::Lost } else { Self::Closed }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Open(stream) => stream.write(bytes).await,
            Self::Lost => std::future::pending().await,
            Self::Closed => Ok(0),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Open(stream) => stream.read(buffer).await,
            Self::Lost => std::future::pending().await,
            Self::Closed => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketType, socket};
    use tokio::time::timeout;

    use super::*;
    use crate::streams::as_unix;

    /// One whose reading, or with a Unix socket writing, fails as in a machine that has another host.
    fn lost(family: AddressFamily) -> UnixStream {
        as_unix(socket(family, SocketType::STREAM, None).unwrap()).unwrap()
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(5), future).await.unwrap()
    }

    #[tokio::test]
    async fn what_a_lost_host_has_not_taken_the_next_one_gets() {
        let (mut host, successors) = Host::new(lost(AddressFamily::UNIX));
        let (agent, mut other) = UnixStream::pair().unwrap();
        assert!(timeout(Duration::from_millis(50), host.take(b"words")).await.is_err(), "it waits");
        successors.try_send(agent).unwrap();
        assert!(soon(host.take(b"words")).await);
        let mut words = [0; 5];
        soon(other.read_exact(&mut words)).await.unwrap();
        assert_eq!(&words, b"words");
    }

    #[tokio::test]
    async fn input_goes_on_with_the_next_host() {
        let (mut host, successors) = Host::new(lost(AddressFamily::INET));
        let mut buffer = [0; 16];
        assert!(timeout(Duration::from_millis(50), host.give(&mut buffer)).await.is_err(), "it waits");
        let (agent, mut other) = UnixStream::pair().unwrap();
        successors.try_send(agent).unwrap();
        other.write_all(b"words").await.unwrap();
        assert_eq!(soon(host.give(&mut buffer)).await, 5);
    }

    #[tokio::test]
    async fn where_no_other_comes_there_is_an_end() {
        let (mut host, successors) = Host::new(lost(AddressFamily::INET));
        drop(successors);
        assert_eq!(soon(host.give(&mut [0; 16])).await, 0);
        assert!(!soon(host.take(b"words")).await);
    }
}
