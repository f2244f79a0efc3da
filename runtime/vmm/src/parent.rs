//! The control socket, seen from the VMM: the spec comes first, then requests; events go out.

use std::{
    io::{self, ErrorKind, Read, Write},
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

/// The process that started this one and holds the other end.
#[derive(Debug)]
pub(crate) struct Parent {
    socket: UnixStream,
    /// What has come and is not yet a whole line.
    received: Vec<u8>,
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
        Self { socket: socket.into(), received: Vec::new() }
    }

    /// A second handle for those that may not wait for the first.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, received: Vec::new() })
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

    pub(crate) fn send(&mut self, event: &Event) -> Result<(), ParentError> {
        let mut line = serde_json::to_vec(event).map_err(ParentError::Line)?;
        line.push(b'\n');
        self.socket.write_all(&line).map_err(ParentError::Write)
    }

    fn read(&mut self) -> Result<(), ParentError> {
        let mut chunk = [0; 4096];
        let length = self.socket.read(&mut chunk).map_err(ParentError::Read)?;
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
