//! The control socket, seen from the server: the spec comes first, then requests; events go out.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
};

use securectr_files::{Event, FilesSpec, MAX_LINE_LEN, Request};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The process that started this one and holds the other end.
pub(crate) struct Control(BufReader<UnixStream>);

#[derive(Debug, Error)]
pub(crate) enum ControlError {
    #[error("read the control socket")]
    Read(#[source] io::Error),
    #[error("write the control socket")]
    Write(#[source] io::Error),
    #[error("the parent has gone")]
    Gone,
    #[error("understand the parent's line")]
    Line(#[source] serde_json::Error),
}

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self(BufReader::new(socket))
    }

    /// A second handle, for writing.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.get_ref().try_clone().map(Self::new)
    }

    pub(crate) fn spec(&mut self) -> Result<FilesSpec, ControlError> {
        self.line()?.ok_or(ControlError::Gone)
    }

    /// Waits for the next request; `None` when no more will come.
    pub(crate) fn request(&mut self) -> Result<Option<Request>, ControlError> {
        self.line()
    }

    pub(crate) fn send(&mut self, event: &Event) -> Result<(), ControlError> {
        let mut line = serde_json::to_vec(event).map_err(ControlError::Line)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line).map_err(ControlError::Write)
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ControlError> {
        let mut line = Vec::new();
        let reader = &mut self.0;
        reader.take(MAX_LINE_LEN as u64).read_until(b'\n', &mut line).map_err(ControlError::Read)?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(ControlError::Line)
    }
}
