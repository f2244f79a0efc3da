//! What has no safe wrapper: a descriptor that another process left for us, known by its number, and one that is watched.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::{Interest, unix::AsyncFd};

/// Takes over a descriptor that `create` or `exec` opened for this process. It must be asked for once.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes integers; says whether the descriptor is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, our parent opened it for us, and nothing else in this process, which has just begun, knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Watches a file for what has priority, as the kernel's own files have it.
pub(super) fn watch_priority(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: the value owns its descriptor, so that it stays open and the same; `AsyncFd` gives it up when it is dropped.
    unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.map_err(io::Error::from)
}
