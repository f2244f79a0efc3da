//! Sandboxes on disk: a directory each, under `/run/securectr` or `$XDG_RUNTIME_DIR/securectr`.
//!
//! The process that watches over a sandbox holds a flock(2) on its directory for as long as it lives, so a directory that can
//! be locked belongs to nobody and is removed. The root's own lock is held while a directory is made or swept: between
//! mkdir and flock a new one looks like a leftover.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use serde::Serialize;
use thiserror::Error;

use crate::SandboxId;

#[derive(Debug, Error)]
pub enum StateError {
    #[error("XDG_RUNTIME_DIR is not set: without root, sandboxes keep their state there")]
    NoRuntimeDirectory,
    #[error("the state directory {0} belongs to another user")]
    ForeignOwner(PathBuf),
    #[error("the name {0} is in use by a running sandbox")]
    NameInUse(SandboxId),
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { operation, path, source }
}

/// Where what outlives its sandbox lies unless somebody says otherwise, images and templates say; none for a user without a home.
pub fn default_store() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/securectr"));
    }
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")));
    data.map(|data| data.join("securectr"))
}

/// The directory that holds those of all sandboxes of this user.
#[derive(Clone, Debug)]
pub struct StateRoot(PathBuf);

/// What is written about a sandbox for those who look from outside.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record<'a> {
    pub id: &'a SandboxId,
    /// The process that watches over the sandbox.
    pub monitor_pid: u32,
    pub vmm_pid: i32,
    /// Of the file server, for a sandbox that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_pid: Option<i32>,
}

/// A sandbox's own directory, locked by this process.
#[derive(Debug)]
pub(crate) struct StateDir {
    pub id: SandboxId,
    path: PathBuf,
    root: StateRoot,
    _lock: Flock<File>,
}

impl StateRoot {
    /// Opens the place that belongs to this user, and removes what dead processes left in it.
    pub fn open() -> Result<Self, StateError> {
        let parent = if geteuid().is_root() {
            PathBuf::from("/run")
        } else {
            env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).ok_or(StateError::NoRuntimeDirectory)?
        };
        Self::open_at(parent.join("securectr"))
    }

    /// As [`StateRoot::open`], at a place of the caller's choice.
    pub fn open_at(path: PathBuf) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(io_error("make the state directory", &path))?;
        let owner =
            fs::symlink_metadata(&path).map_err(io_error("look at the state directory", &path))?.uid();
        if owner != geteuid().as_raw() {
            return Err(StateError::ForeignOwner(path));
        }
        let root = Self(path);
        root.sweep()?;
        Ok(root)
    }

    /// It holds a directory for each sandbox, by its id.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the directories that no living process holds. Their VMMs are dead: a VMM ends with its parent. One that cannot be removed
    /// just now keeps nobody from anything.
    fn sweep(&self) -> Result<(), StateError> {
        let _exclusive = self.lock()?;
        let entries = fs::read_dir(&self.0).map_err(io_error("list the state directory", &self.0))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if let Ok(Some(_abandoned)) = try_lock(&path) {
                let _ = fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }

    /// Makes and locks the directory of a new sandbox.
    pub(crate) fn create(&self, id: &SandboxId) -> Result<StateDir, StateError> {
        let _exclusive = self.lock()?;
        let path = self.0.join(id.as_str());
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StateError::NameInUse(id.clone()));
            }
            Err(error) => return Err(io_error("make the sandbox's directory", &path)(error)),
        }
        match try_lock(&path) {
            Ok(Some(lock)) => Ok(StateDir { id: id.clone(), path, root: self.clone(), _lock: lock }),
            Ok(None) => Err(StateError::NameInUse(id.clone())),
            Err(error) => Err(io_error("lock the sandbox's directory", &path)(error)),
        }
    }

    fn lock(&self) -> Result<Flock<File>, StateError> {
        let file = File::open(&self.0).map_err(io_error("open the state directory", &self.0))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io_error("lock the state directory", &self.0)(errno.into()))
    }
}

/// Takes the lock of a directory, or `None` when a living process has it.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

impl StateDir {
    /// Where the VMM's Unix socket for connections into the guest lies.
    pub(crate) fn vsock_path(&self) -> PathBuf {
        self.path.join("vsock.sock")
    }

    pub(crate) fn write_record(&self, record: &Record<'_>) -> Result<(), StateError> {
        let path = self.path.join("state.json");
        let json = serde_json::to_vec(record).map_err(|error| io_error("describe", &path)(error.into()))?;
        fs::write(&path, json).map_err(io_error("write", &path))
    }

    /// Gives the name free. A failure leaves a leftover, which the next [`StateRoot::open`] removes.
    pub(crate) fn remove(&self) {
        let _exclusive = self.root.lock();
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SandboxId {
        name.parse().unwrap()
    }

    #[test]
    fn a_name_can_be_used_once_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let root = StateRoot::open_at(place.path().join("s")).unwrap();
        let first = root.create(&id("web")).unwrap();
        assert!(matches!(root.create(&id("web")), Err(StateError::NameInUse(_))));
        first.remove();
        assert!(root.create(&id("web")).is_ok());
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_lives_stays() {
        let place = tempfile::tempdir().unwrap();
        let root = StateRoot::open_at(place.path().join("s")).unwrap();
        let living = root.create(&id("living")).unwrap();
        // A process that is killed loses its lock and leaves its directory.
        let StateDir { path: dead, _lock: lock, .. } = root.create(&id("dead")).unwrap();
        drop(lock);
        StateRoot::open_at(place.path().join("s")).unwrap();
        assert!(living.path.exists() && !dead.exists());
    }

    #[test]
    fn the_directory_is_private() {
        let place = tempfile::tempdir().unwrap();
        StateRoot::open_at(place.path().join("s")).unwrap();
        assert_eq!(fs::metadata(place.path().join("s")).unwrap().mode() & 0o777, 0o700);
    }
}
