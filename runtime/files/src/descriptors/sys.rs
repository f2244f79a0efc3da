//! From a number to an owned descriptor.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Owns an open descriptor; `None` when the number is not open. The caller asks for each number once.
pub(super) fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no pointers and works on any number.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    // SAFETY: it is open; it came by execve(2) and its number is handed out once, so nothing else in this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
