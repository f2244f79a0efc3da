//! Files of the cgroup file system that tell when their content changes (POLLPRI), so that nobody has to look again and again.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use tokio::io::{Interest, unix::AsyncFd};

use crate::sys::watch;

/// These files have a handful of short lines.
const MAX_LEN: usize = 4096;

pub(super) struct EventFile(AsyncFd<File>);

impl EventFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(watch(File::open(path)?, Interest::PRIORITY)?))
    }

    /// Waits until `look` finds what it looks for in the content.
    pub(super) async fn until<T>(&self, look: impl Fn(&str) -> Option<T>) -> io::Result<T> {
        let mut bytes = [0; MAX_LEN];
        loop {
            // Reading it is what makes the kernel tell of the next change.
            let len = self.0.get_ref().read_at(&mut bytes, 0)?;
            let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
            if let Some(found) = look(&text) {
                return Ok(found);
            }
            self.0.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }
}
