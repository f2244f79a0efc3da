//! The control socket, seen from the VMM: the spec comes first, then requests; events go out.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use securectr_vmm::{
    control::{Event, MAX_LINE_LEN, Request},
    spec::VmSpec,
};
use serde::de::DeserializeOwned;
use thiserror::Error;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The process that started this one and holds the other end.
#[derive(Debug)]
pub(crate) struct Parent {
    socket: UnixStream,
    /// What has come and is not yet a whole line.
    received: Vec<u8>,
    /// Descriptors that have come with requests, oldest first.
    descriptors: VecDeque<OwnedFd>,
}

#[derive(Debug, Error)]
pub(crate) enum ParentError {
    #[error("read the control socket")]
    Read(#[source] io::Error),
    #[error("write the control socket")]
    Write(#[source] io::Error),
    #[error("the parent has closed the control socket")]
    Gone,
    #[error("a line on the control socket is longer than {MAX_LINE_LEN} bytes")]
    LineTooLong,
    #[error("understand the parent's line")]
    Line(#[source] serde_json::Error),
}

impl Parent {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), received: Vec::new(), descriptors: VecDeque::new() }
    }

    /// A second handle for those that may not wait for the first.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(self.socket.try_clone()?.into()))
    }

    /// Waits for the first line. From then on, reading does not wait.
    pub(crate) fn spec(&mut self) -> Result<VmSpec, ParentError> {
        let spec = loop {
            if let Some(spec) = self.next_line()? {
                break spec;
            }
            self.read()?;
        };
        self.socket.set_nonblocking(true).map_err(ParentError::Read)?;
        Ok(spec)
    }

    /// The next request, if a whole one has come; [`ParentError::Gone`] when no more will.
    pub(crate) fn request(&mut self) -> Result<Option<Request>, ParentError> {
        loop {
            if let Some(request) = self.next_line()? {
                return Ok(Some(request));
            }
            match self.read() {
                Ok(()) => {}
                Err(ParentError::Read(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor of the oldest request that has one.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    pub(crate) fn send(&mut self, event: &Event) -> Result<(), ParentError> {
        let mut line = serde_json::to_vec(event).map_err(ParentError::Line)?;
        line.push(b'\n');
        self.socket.write_all(&line).map_err(ParentError::Write)
    }

    fn read(&mut self) -> Result<(), ParentError> {
        let mut chunk = [0; 4096];
        let (length, descriptor) =
            self.socket.recv_with_fd(&mut chunk).map_err(|error| ParentError::Read(error.into()))?;
        self.descriptors.extend(descriptor.map(OwnedFd::from));
        let bytes = chunk.get(..length).filter(|bytes| !bytes.is_empty()).ok_or(ParentError::Gone)?;
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    fn next_line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ParentError> {
        let Some(end) = self.received.iter().position(|&byte| byte == b'\n') else {
            let full = self.received.len() >= MAX_LINE_LEN;
            return if full { Err(ParentError::LineTooLong) } else { Ok(None) };
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        serde_json::from_slice(&line).map(Some).map_err(ParentError::Line)
    }
}

impl AsRawFd for Parent {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> (Parent, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Parent::new(ours.into()), theirs)
    }

    #[test]
    fn requests_come_whole_however_they_are_cut() {
        let (mut parent, mut theirs) = connected();
        theirs.write_all(b"\"pause\"\n\"res").unwrap();
        assert_eq!(parent.request().unwrap(), Some(Request::Pause));
        assert_eq!(parent.request().unwrap(), None);
        theirs.write_all(b"ume\"\n").unwrap();
        assert_eq!(parent.request().unwrap(), Some(Request::Resume));
    }

    #[test]
    fn a_descriptor_comes_with_its_request() {
        let (mut parent, theirs) = connected();
        let file = tempfile::tempfile().unwrap();
        theirs.send_with_fd(&b"{\"attach_net\":3}\n"[..], file.as_raw_fd()).unwrap();
        assert_eq!(parent.request().unwrap(), Some(Request::AttachNet(3)));
        assert!(parent.take_descriptor().is_some() && parent.take_descriptor().is_none());
    }

    #[test]
    fn a_parent_that_has_gone_is_told_apart_from_silence() {
        let (mut parent, theirs) = connected();
        assert!(parent.request().unwrap().is_none());
        drop(theirs);
        assert!(matches!(parent.request(), Err(ParentError::Gone)));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut parent, mut theirs) = connected();
        let writer = std::thread::spawn(move || theirs.write_all(&vec![b' '; 2 * MAX_LINE_LEN]));
        let refused = loop {
            match parent.request() {
                Ok(None) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert!(matches!(refused, Err(ParentError::LineTooLong)));
        drop(parent);
        let _ = writer.join().unwrap();
    }
}
