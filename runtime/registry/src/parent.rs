//! The parent: its request comes on standard input, events go to standard output.

use std::{
    io::{self, BufRead, Read, Write},
    process, thread,
};

use securectr_registry::{Event, MAX_REQUEST_LEN, Request};
use thiserror::Error;

/// The process that started this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent;

#[derive(Debug, Error)]
pub(crate) enum ParentError {
    #[error("read the request")]
    Read(#[source] io::Error),
    #[error("the request is longer than {MAX_REQUEST_LEN} bytes, or not one line")]
    Length,
    #[error("understand the request")]
    Request(#[source] serde_json::Error),
    #[error("start to wait for the parent's end")]
    Watch(#[source] io::Error),
}

impl Parent {
    pub(crate) fn request(self) -> Result<Request, ParentError> {
        let mut line = Vec::new();
        let mut input = io::stdin().lock().take(MAX_REQUEST_LEN as u64);
        input.read_until(b'\n', &mut line).map_err(ParentError::Read)?;
        if line.last() != Some(&b'\n') {
            return Err(ParentError::Length);
        }
        serde_json::from_slice(&line).map_err(ParentError::Request)
    }

    /// From here on this process ends when the parent does. PR_SET_PDEATHSIG would be tied to the parent's thread that started us.
    pub(crate) fn end_with_it(self) -> Result<(), ParentError> {
        let watch = || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            process::exit(1)
        };
        thread::Builder::new().name("parent".into()).spawn(watch).map(drop).map_err(ParentError::Watch)
    }

    /// Without a parent there is nobody to fetch for.
    pub(crate) fn send(self, event: &Event) {
        let sent = serde_json::to_vec(event).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            io::stdout().lock().write_all(&line)
        });
        if sent.is_err() {
            process::exit(1);
        }
    }
}
