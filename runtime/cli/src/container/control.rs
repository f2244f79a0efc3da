//! What is said to a container's monitor: on a connection to its socket one JSON document a line, and descriptors beside it.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::LinuxResources;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use securectr_sandbox::{Addition, SandboxId, Stats};
use serde::{Deserialize, Serialize};

use super::{kept::Restart, record::Place};

/// No document is longer, in bytes.
pub(crate) const MAX_LEN: u64 = 1 << 20;

/// Standard streams at most.
const MAX_FDS: usize = 3;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Lets the container run.
    Start,
    Kill {
        signal: u32,
        all: bool,
    },
    Pause,
    Resume,
    /// Lets the container stand still, and saves its machine and its disk in a directory. Answered by [`Answer::Saved`]. It stands
    /// still until this connection says more, or ends.
    Save {
        directory: PathBuf,
    },
    /// Lets it go on after that.
    GoOn,
    /// Ends it after that: it goes on from its checkpoint.
    End {
        checkpoint: String,
    },
    Update(Box<LinuxResources>),
    Stats,
    /// Lets the guest give memory back. It goes on to come for some seconds.
    Reclaim,
    /// Answered by [`Answer::Machine`].
    Machine,
    Rename {
        name: String,
    },
    /// What follows its end.
    Restart(Restart),
    /// Answered with the container's streams, as far as it has them.
    Attach {
        wanted: Wanted,
    },
    Resize {
        columns: u16,
        rows: u16,
    },
    /// Answered at the container's end. Others are answered meanwhile.
    Wait,
    /// Adds a process or a job, which is this connection's from then on. Answered with its streams.
    Exec {
        addition: Addition,
        wanted: Wanted,
    },
    /// Lets this connection's process run.
    StartExec,
    ResizeExec {
        columns: u16,
        rows: u16,
    },
    KillExec {
        signal: u32,
    },
    /// Answered at the end of this connection's process. Others are answered meanwhile.
    WaitExec,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container when it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// As its guest knows it.
    pub guest_id: SandboxId,
    pub vcpu_count: u8,
    /// It was paused before.
    pub is_paused: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// With a descriptor for each stream that was wanted, in their order.
    Streams,
    Stats(Box<Stats>),
    Saved(Moment),
    /// The pid of the process that is the machine.
    Machine(i32),
    /// As a shell tells it.
    Exited(u8),
    Refused(String),
    /// The program could not be executed.
    NotExecuted {
        words: String,
        /// As docker tells it: 126 or 127.
        code: u8,
    },
}

/// A monitor's refusal, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// A connection to a monitor.
pub(crate) struct Client(UnixStream);

impl Client {
    pub(crate) fn connect(place: &Place) -> Result<Self> {
        let stream = place
            .with_socket(|path| UnixStream::connect(path))
            .map_err(|_| anyhow!("container not running"))?;
        Ok(Self(stream))
    }

    /// One that is connected.
    pub(crate) fn of(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone().context("share the connection to the monitor")?))
    }

    pub(crate) fn tell(&self, request: &Request) -> Result<()> {
        send(&self.0, request, &[]).context("talk to the container's monitor")
    }

    /// The next answer. A refusal is an error.
    pub(crate) fn hear(&self) -> Result<(Answer, Vec<OwnedFd>)> {
        let (line, fds) = receive(&self.0).context("hear the container's monitor")?;
        match serde_json::from_slice(&line).context("understand the container's monitor")? {
            Answer::Refused(words) => Err(Refused(words).into()),
            answer => Ok((answer, fds)),
        }
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<(Answer, Vec<OwnedFd>)> {
        self.tell(request)?;
        self.hear()
    }
}

/// Sends a document, and descriptors with its first byte.
pub(crate) fn send(stream: impl AsFd, document: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    let mut rest = line.as_slice();
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    while !rest.is_empty() {
        let sent = sendmsg(&stream, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)?;
        ancillary.clear();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Up to the end of the line; an end of file before it is an error.
fn receive(mut stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut line = vec![0];
    let first = recvmsg(stream, &mut [IoSliceMut::new(&mut line)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if first.bytes == 0 || first.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let mut byte = [0];
    while line.last() != Some(&b'\n') && (line.len() as u64) < MAX_LEN {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok((line, fds))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_document_and_its_descriptors_arrive_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        send(&theirs, &Answer::Streams, &[writer.into()]).unwrap();
        let (answer, mut fds) = Client(ours).hear().unwrap();
        assert!(matches!(answer, Answer::Streams) && fds.len() == 1);
        UnixStream::from(fds.remove(0)).write_all(b"x").unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn a_refusal_is_an_error_in_the_monitors_words() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&theirs, &Answer::Refused("cannot".into()), &[]).unwrap();
        assert_eq!(Client(ours).hear().unwrap_err().to_string(), "cannot");
    }

    #[test]
    fn a_monitor_that_goes_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Client(ours).hear().is_err());
    }
}
