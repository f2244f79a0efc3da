//! The descriptors that the parent has laid into this process's table. Each has a fixed number and is asked for once, by `main`.

mod sys;

use std::os::{fd::OwnedFd, unix::net::UnixStream};

use securectr_files::{CONTROL_FD, REQUESTS_FD};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("descriptor {0} is not open")]
pub(crate) struct NotOpen(i32);

pub(crate) fn control() -> Result<UnixStream, NotOpen> {
    sys::own(CONTROL_FD).map(Into::into).ok_or(NotOpen(CONTROL_FD))
}

pub(crate) fn requests() -> Result<OwnedFd, NotOpen> {
    sys::own(REQUESTS_FD).ok_or(NotOpen(REQUESTS_FD))
}
