//! Descriptors that the parent has laid.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// Owns a descriptor that is open.
pub(crate) fn own(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_GETFD takes no pointers.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and `main` asks for each of its three numbers once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
