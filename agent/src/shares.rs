//! The directories and files that the host shares: one virtio-fs mount for all containers, made when the first one asks for it.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::mount::{MountFlags, mount};
use securectr_protocol::{SHARED, SHARED_TAG};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum SharesError {
    #[error("make {SHARED}")]
    Place(#[source] io::Error),
    #[error("mount what the host shares")]
    Mount(#[source] io::Error),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    mounted: Arc<Mutex<bool>>,
}

impl Shares {
    /// Mounts them, unless they are.
    pub(crate) fn mount(&self) -> Result<(), SharesError> {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if !*mounted {
            fs::create_dir_all(SHARED).map_err(SharesError::Place)?;
            mount(SHARED_TAG, SHARED, "virtiofs", MountFlags::empty(), None)
                .map_err(|errno| SharesError::Mount(errno.into()))?;
            *mounted = true;
        }
        Ok(())
    }
}
