//! Descriptors and the event loop.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Watches a file that its value owns: nothing else can close it as long as the value lives.
pub(crate) fn watch<T: AsRawFd + Into<OwnedFd>>(file: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the value owns its descriptor, so that it stays open and the same; `AsyncFd` gives it up when it is dropped.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(io::Error::from)
}
