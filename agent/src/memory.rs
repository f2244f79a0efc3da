//! Memory that the guest's kernel keeps for later, given up: what is clean in its caches. The host hears of it by the balloon. Nothing is
//! moved to make larger pieces of it: what is moved is written, and costs a machine that shares its memory with others more than it gives.

use std::{fs, io};

use thiserror::Error;

use crate::{
    reaper::{Exit, Reaper},
    sys::copy_self,
};

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

/// It takes a while, in which the agent has other things to do: so that is done by a process of its own.
pub(crate) async fn reclaim(reaper: &Reaper) -> Result<(), MemoryError> {
    let pid = copy_self(0, None, || {
        let given_up = fs::write(DROP_CACHES, EVERYTHING);
        given_up.map_or_else(|error: io::Error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
    });
    let mut process = reaper.watch(pid.map_err(MemoryError::Begin)?);
    match process.wait_for(Option::is_some).await.map_or(None, |exit| *exit) {
        Some(Exit::Code(errno @ 1..)) => {
            Err(MemoryError::Reclaim(io::Error::from_raw_os_error(errno as i32)))
        }
        _ => Ok(()),
    }
}
