//! Locks between processes: flock(2) on files of the store. They end with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Beside others that share it.
    pub(super) fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        Ok(Self { _file: file })
    }

    /// Alone; `waiting` is called when somebody else has it.
    pub(super) fn alone(path: &Path, waiting: &mut dyn FnMut()) -> io::Result<Self> {
        let file = open(path)?;
        if !try_lock(&file)? {
            waiting();
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(Self { _file: file })
    }

    /// Alone, if nobody else has it just now.
    pub(super) fn try_alone(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        Ok(try_lock(&file)?.then_some(Self { _file: file }))
    }
}

/// Whether it is ours, alone.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}
