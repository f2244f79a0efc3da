//! A process on the host that stands for a container: engines record its pid, signal it, and look for namespaces behind it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crate::{sys, vmm::exit_of};

/// It does nothing, and lives until this is dropped or somebody kills it.
#[derive(Debug)]
pub struct Anchor {
    pid: i32,
    pidfd: Arc<OwnedFd>,
}

impl Anchor {
    /// Starts it. It dies with the thread that calls this.
    pub fn drop_here() -> io::Result<Self> {
        let launched = sys::clone(0, sys::stand_still)?;
        Ok(Self { pid: launched.pid, pidfd: Arc::new(launched.pidfd) })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Answers when it has ended: somebody on the host killed the container by its pid.
    pub async fn ended(&self) {
        let _ = exit_of(&self.pidfd).await;
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        sys::kill(&self.pidfd);
        sys::reap(&self.pidfd);
    }
}
