//! Memory that the guest's kernel keeps for later, given up: what is clean in its caches. The host hears of free memory by the balloon, in
//! pieces of 2 MiB and more, so it is put together first.

use std::{fs, io};

use thiserror::Error;

use crate::{
    reaper::{Exit, Reaper},
    sys::copy_self,
};

/// proc_sys_vm(5): pages of files, and names and inodes.
const DROP_CACHES: (&str, &str) = ("/proc/sys/vm/drop_caches", "3");
const COMPACT: (&str, &str) = ("/proc/sys/vm/compact_memory", "1");

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
        let given_up = [DROP_CACHES, COMPACT].into_iter().try_for_each(|(path, word)| fs::write(path, word));
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
