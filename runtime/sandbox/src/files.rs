//! The file server's process: started, asked, and heard of when it ends. One task owns its control socket; the others talk to it by
//! channels.

use std::{
    collections::VecDeque,
    ffi::CString,
    fmt, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream as StdUnixStream},
    },
    path::Path,
    sync::Arc,
};

use nix::{
    sys::{
        signal::Signal,
        socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt},
    },
    unistd::{getegid, geteuid},
};
use securectr_files::{Event, FilesSpec, MAX_LINE_LEN, Owners, Request};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

use crate::{end::ProcessExit, silence, sys, vmm::exit_of};

/// Room for several of the largest messages on their way, in bytes.
const SOCKET_BUFFER_LEN: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("make the file server's {0}")]
    Descriptor(&'static str, #[source] io::Error),
    #[error("start securectr-files")]
    Start(#[source] io::Error),
}

/// How a file server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesEnd {
    /// The VMM has gone, and it with it.
    Left,
    /// It could not go on; its chain of causes.
    Failed(String),
    Killed(i32),
    Exited(i32),
}

impl fmt::Display for FilesEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("the file server has left"),
            Self::Failed(text) => write!(f, "the file server failed: {text}"),
            Self::Killed(signal) => write!(f, "the file server was ended by signal {signal}"),
            Self::Exited(code) => write!(f, "the file server exited with code {code}"),
        }
    }
}

/// A started file server. When this is dropped, it is killed, and its mounts go with it.
#[derive(Debug)]
pub(crate) struct FileServer {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    owners: Owners,
    ready: watch::Receiver<bool>,
    end: watch::Receiver<Option<FilesEnd>>,
    requests: mpsc::Sender<Asked>,
}

type Asked = (Request, oneshot::Sender<()>);

impl FileServer {
    /// Starts it. Answers also with the socket on which it serves its only client.
    pub(crate) fn start(program: &Path) -> Result<(Self, OwnedFd), FilesError> {
        let owners = if geteuid().is_root() { Owners::Real } else { Owners::One };
        let identity = match owners {
            Owners::Real => sys::Identity::HostRoot,
            Owners::One => sys::Identity::Alone { uid: geteuid(), gid: getegid() },
        };
        let program =
            CString::new(program.as_os_str().as_bytes()).map_err(|error| FilesError::Start(error.into()))?;
        let (control, fds, client) = equip()?;
        let launched = sys::launch(&sys::Launch { program: &program, fds: &fds, identity })
            .map_err(FilesError::Start)?;
        // Our copies would keep the client's socket open beyond the server's death.
        drop(fds);
        let pidfd = Arc::new(launched.pidfd);
        let (said_ready, ready) = watch::channel(false);
        let (said_end, end) = watch::channel(None);
        let (requests, asked) = mpsc::channel(1);
        let talk = Talk { ready: said_ready, asked, waiting: VecDeque::new(), failure: None };
        let watched = Arc::clone(&pidfd);
        tokio::spawn(async move {
            let failure = talk.hold(control, FilesSpec { owners }).await;
            // It has said its last word, or died.
            sys::kill(&watched);
            let exit = exit_of(&watched).await.unwrap_or(ProcessExit::Signal(Signal::SIGKILL as i32));
            let _ = said_end.send(Some(end_of(failure, exit)));
        });
        Ok((Self { pid: launched.pid, pidfd, owners, ready, end, requests }, client))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells its end.
    pub(crate) fn end(&self) -> watch::Receiver<Option<FilesEnd>> {
        self.end.clone()
    }

    /// A pidfd, by which its namespaces are entered, once its jail is shut; `None` when it has ended.
    pub(crate) async fn jailed(&self) -> Option<BorrowedFd<'_>> {
        let (mut ready, mut end) = (self.ready.clone(), self.end.clone());
        let is_ready = tokio::select! {
            is_ready = ready.wait_for(|&is_ready| is_ready) => is_ready.is_ok(),
            _ = end.wait_for(Option::is_some) => false,
        };
        is_ready.then(|| self.pidfd.as_fd())
    }

    /// Whether it is in a user namespace of its own.
    pub(crate) fn has_own_users(&self) -> bool {
        self.owners == Owners::One
    }

    /// Asks something of it and waits until it is done. A server that has ended has no more to do.
    pub(crate) async fn ask(&self, request: Request) {
        let (done, is_done) = oneshot::channel();
        if self.requests.send((request, done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        sys::kill(&self.pidfd);
    }
}

/// Our end of the control socket, the server's descriptors in the order of their numbers, and its client's socket.
fn equip() -> Result<(UnixStream, Vec<OwnedFd>, OwnedFd), FilesError> {
    let descriptor = |what| move |error| FilesError::Descriptor(what, error);
    let (ours, theirs) = StdUnixStream::pair().map_err(descriptor("control socket"))?;
    ours.set_nonblocking(true).map_err(descriptor("control socket"))?;
    let control = UnixStream::from_std(ours).map_err(descriptor("control socket"))?;
    let (client, requests) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| FilesError::Descriptor("request socket", errno.into()))?;
    for socket in [&client, &requests] {
        // Root may have more than others; the default is room for one message at least.
        let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_LEN)
            .or_else(|_| setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_LEN));
    }
    let [stdin, stdout, stderr] = silence::streams().map_err(descriptor("standard streams"))?;
    Ok((control, vec![stdin, stdout, stderr, theirs.into(), requests], client))
}

fn end_of(failure: Option<String>, exit: ProcessExit) -> FilesEnd {
    match (failure, exit) {
        (Some(text), _) => FilesEnd::Failed(text),
        (None, ProcessExit::Code(0)) => FilesEnd::Left,
        (None, ProcessExit::Code(code)) => FilesEnd::Exited(code),
        (None, ProcessExit::Signal(signal)) => FilesEnd::Killed(signal),
    }
}

/// The conversation on the control socket.
struct Talk {
    ready: watch::Sender<bool>,
    asked: mpsc::Receiver<Asked>,
    /// Who waits for the answers, in the order of the questions.
    waiting: VecDeque<oneshot::Sender<()>>,
    failure: Option<String>,
}

impl Talk {
    /// Until the server's last word, which is answered with, or our own end.
    async fn hold(mut self, control: UnixStream, spec: FilesSpec) -> Option<String> {
        let (reader, mut writer) = control.into_split();
        let mut reader = BufReader::new(reader);
        let _ = writer.write_all(&line(&spec)).await;
        loop {
            tokio::select! {
                event = next_event(&mut reader) => match event {
                    Some(event) => self.hear(event),
                    None => return self.failure,
                },
                Some((request, done)) = self.asked.recv() => {
                    self.waiting.push_back(done);
                    let _ = writer.write_all(&line(&request)).await;
                }
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Ready => drop(self.ready.send(true)),
            Event::Done => drop(self.waiting.pop_front().map(|done| done.send(()))),
            Event::Failed(text) => {
                self.failure = Some(text.chars().filter(|c| !c.is_control()).take(200).collect());
            }
        }
    }
}

fn line(document: &impl serde::Serialize) -> Vec<u8> {
    // Plain data, which always has a JSON form.
    let mut line = serde_json::to_vec(document).unwrap_or_default();
    line.push(b'\n');
    line
}

/// `None` when there will be no more; a line that is no event counts as the end. To be cancelled only between lines: the server
/// writes each by one call, so that it comes whole.
async fn next_event(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Event> {
    let mut line = Vec::new();
    match reader.take(MAX_LINE_LEN as u64).read_until(b'\n', &mut line).await {
        Ok(1..) => serde_json::from_slice(&line).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_leaves_is_told_from_one_that_breaks() {
        assert_eq!(end_of(None, ProcessExit::Code(0)), FilesEnd::Left);
        let killed = end_of(None, ProcessExit::Signal(9));
        assert_eq!(killed.to_string(), "the file server was ended by signal 9");
        assert_eq!(end_of(Some("x".into()), ProcessExit::Code(1)), FilesEnd::Failed("x".into()));
    }
}
