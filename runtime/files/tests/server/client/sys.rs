//! Entering another mount namespace with one thread, which has no safe wrapper.

use std::{fs::File, io};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::os::fd::AsFd;

/// The calling thread goes there and does not come back.
pub(super) fn enter_mounts(namespace: &File) -> io::Result<()> {
    // SAFETY: the thread gets a root and a working directory of its own; no other thread relies on sharing them.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?)
}
