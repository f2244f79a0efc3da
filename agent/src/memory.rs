//! Memory that the guest's kernel keeps for later, given up: what is clean in its caches. The host hears of it by the balloon. Nothing is
//! moved to make larger pieces of it: what is moved is written, and costs a machine that shares its memory with others more than it gives.

use std::{fs, io};

use thiserror::Error;

use crate::reaper::{Reaper, outcome};

/// proc_sys_vm(5): pages of files, and names and inodes.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const EVERYTHING: &str = "3";

#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("begin to give up memory")]
    Begin(#[source] io::Error),
    #[error("give up memory")]
    Reclaim(#[source] io::Error),
}

/// It takes a while.
pub(crate) async fn reclaim(reaper: &Reaper) -> Result<(), MemoryError> {
    let process = reaper.apart(|| fs::write(DROP_CACHES, EVERYTHING)).map_err(MemoryError::Begin)?;
    outcome(process).await.map_err(MemoryError::Reclaim)
}
