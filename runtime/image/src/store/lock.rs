//! Locks between processes: flock(2) on files of the store. They end with the process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Beside others that share it.
    pub(super) fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        Ok(Self { file })
    }

    /// Alone; `waiting` is called when somebody else has it.
    pub(super) fn alone(path: &Path, waiting: &mut dyn FnMut()) -> io::Result<Self> {
        let file = open(path)?;
        if !try_lock(&file)? {
            waiting();
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(Self { file })
    }

    /// Whether the file at `path` is the one that is locked: it may have been removed in between.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_at(&self.file, path)
    }

    /// Alone, if nobody else has it just now.
    pub(super) fn try_alone(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        Ok(try_lock(&file)?.then_some(Self { file }))
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

/// Whether what was locked is still what is at `path`: another process may have removed it in between.
pub(super) fn is_at(lock: &File, path: &Path) -> io::Result<bool> {
    let locked = lock.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (locked.dev(), locked.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}
