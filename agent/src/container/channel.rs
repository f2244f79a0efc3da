//! The talk of the agent with a process that it is about to become a container's: ready, go, and why it failed.
//! A successful execve closes the process's end, so the program's start is an end of file.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use thiserror::Error;

use tokio::io::{Interest, unix::AsyncFd};

use super::sys;
use crate::sys::watch;

/// Longer messages are cut, in bytes.
const MAX_MESSAGE_LEN: usize = 4096;

const READY: u8 = 0;
const FAILED: u8 = 1;
const NOT_EXECUTED: u8 = 2;
const GO: u8 = 3;

#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    #[error("talk to the new process")]
    Io(#[from] io::Error),
    #[error("the new process ended before it was ready")]
    Ended,
    /// Its own words.
    #[error("{0}")]
    Failed(String),
}

/// The program could not be executed.
#[derive(Debug)]
pub(crate) struct NotExecuted {
    pub errno: i32,
    pub program: String,
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct AgentEnd(AsyncFd<OwnedFd>);

/// The new process's end.
pub(super) struct ProcessEnd(OwnedFd);

/// Both ends, before the process exists.
pub(super) fn pair() -> io::Result<(OwnedFd, ProcessEnd)> {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    Ok((ours, ProcessEnd(theirs)))
}

impl AgentEnd {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(watch(socket, Interest::READABLE)?))
    }

    /// Waits until the process is ready to go; it hands over the terminal's master side, if it has a terminal.
    pub(super) async fn ready(&self) -> Result<Option<OwnedFd>, ChannelError> {
        match self.0.async_io(Interest::READABLE, receive).await? {
            (message, terminal) if message.first() == Some(&READY) => Ok(terminal),
            (message, _) => Err(words(&message)),
        }
    }

    /// Lets it go on, and waits until its program runs or cannot.
    pub(super) async fn go(self) -> Result<Option<NotExecuted>, ChannelError> {
        send(self.0.get_ref(), &[GO], SendFlags::NOSIGNAL).map_err(|_| ChannelError::Ended)?;
        let (message, _) = self.0.async_io(Interest::READABLE, receive).await?;
        match message.split_first() {
            None => Ok(None),
            Some((&NOT_EXECUTED, rest)) => {
                let (errno, program) = rest.split_first_chunk().ok_or(ChannelError::Ended)?;
                let program = String::from_utf8_lossy(program).into_owned();
                Ok(Some(NotExecuted { errno: i32::from_le_bytes(*errno), program }))
            }
            Some(_) => Err(words(&message)),
        }
    }
}

fn words(message: &[u8]) -> ChannelError {
    match message.split_first() {
        Some((&FAILED, text)) => ChannelError::Failed(String::from_utf8_lossy(text).into_owned()),
        _ => ChannelError::Ended,
    }
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    bytes.truncate(received.bytes);
    Ok((bytes, descriptor))
}

impl ProcessEnd {
    pub(super) fn ready(&self, terminal: Option<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = terminal.as_ref().map(|terminal| [terminal.as_fd()]);
        if let Some(descriptors) = &descriptors {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(&self.0, &[IoSlice::new(&[READY])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Closes all that was copied from the agent but is not this process's: another's stdin could not end otherwise.
    pub(super) fn close_others(&self, terminal: Option<&OwnedFd>) -> io::Result<()> {
        let mut kept: Vec<_> = terminal.into_iter().chain([&self.0]).map(AsRawFd::as_raw_fd).collect();
        sys::close_others(&mut kept)
    }

    /// Waits for the word to go. Whether it came: when the agent gives up, it closes its end.
    pub(super) fn wait(&self) -> bool {
        let mut byte = [0];
        matches!(recv(&self.0, &mut byte, RecvFlags::empty()), Ok((_, 1)))
    }

    /// Says that it has begun, when no program does so by being executed: an empty message is as good as the end.
    pub(super) fn begun(&self) {
        self.say(&[]);
    }

    pub(super) fn failed(&self, words: &str) {
        self.say(&[&[FAILED], words.as_bytes()].concat());
    }

    pub(super) fn not_executed(&self, errno: i32, program: &[u8]) {
        self.say(&[&[NOT_EXECUTED], errno.to_le_bytes().as_slice(), program].concat());
    }

    fn say(&self, message: &[u8]) {
        let cut = message.get(..MAX_MESSAGE_LEN).unwrap_or(message);
        // When nobody listens any more there is nobody to tell.
        let _ = send(&self.0, cut, SendFlags::NOSIGNAL);
    }
}
