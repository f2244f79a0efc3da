//! The store: images by name, and root file systems that were made once, found again by what they are made of.
//!
//! ```text
//! DIR/v1/images/<digest of the configuration>/rootfs.erofs    the merged layers
//!                                            /image.json      written last: without it the folder counts for nothing
//! DIR/v1/sources/<digest of the reference>                    which image an archive held when it was last looked at
//! DIR/v1/index.json, blobs/sha256/<digest>                    images by name, as an OCI layout: `library`, `content`
//! DIR/v1/pulls/<digest of the name>/                          pulls that are not at their end: `pull`
//! ```
//! A start opens the first two. Before that, of an archive it reads its source's record and compares it with `stat` of the archive, of
//! a name it reads the index: no archive and no blob is read.
//!
//! One lock per image: flock(2) on its folder, held while it is made. Whoever holds it owns every file in there, so that what a
//! killed process left is simply removed. No other lock is taken while it is held. `library` has the others.

mod add;
mod commit;
mod content;
mod entry;
mod library;
mod lock;
mod pull;
mod record;
mod save;
mod verity;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::import::import;
use crate::limits::Limits;
use crate::pack::{self, pack};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::source::{self, Found};
use crate::user::{Accounts, ResolveUserError, User};
use entry::Entry;
use record::Record;

pub use add::Addition;
pub use commit::Commit;
pub use library::{Listed, Removed};
pub use pull::Pulling;
pub use save::Description;

/// The format of what is kept, and of the images: another number is another store.
const VERSION: &str = "v1";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image itself: not there, damaged, refused, or for another machine.
    #[error("cannot use the image {reference}")]
    Image {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory that was to be packed.
    #[error("cannot use the directory {path} as a container's root")]
    Directory {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Of a name or id that was given.
    #[error("there is no image {0} here")]
    NotThere(String),
    #[error("several images have an id that begins with {0}")]
    Ambiguous(String),
    #[error("cannot save the images")]
    Save(#[source] io::Error),
    #[error("cannot unpack the archive")]
    Spool(#[source] io::Error),
    /// The store: no permission, disk full.
    #[error("cannot use the image store {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What is being done, for a person who waits. Bytes, with their total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another process makes the same image; it will be used.
    Waiting,
    /// Blobs are copied into the store.
    Copying { done: u64, total: u64 },
    /// Layers are read, as stored.
    Reading { done: u64, total: u64 },
    /// Files' data is written.
    Writing { done: u64, total: u64 },
}

/// A root file system that is ready to be used.
#[derive(Debug)]
pub struct Image {
    /// The EROFS image, open for reading only. A whole number of 4 KiB blocks.
    pub rootfs: File,
    /// The configuration's digest; none for a directory that was packed.
    pub digest: Option<Digest>,
    pub config: ImageConfig,
    accounts: Accounts,
}

impl Image {
    /// Looks up `[USER|UID][:[GROUP|GID]]`, as in `--user` and [`ImageConfig::user`], and further groups in the image's own files.
    ///
    /// # Errors
    /// A name that the image does not have.
    pub fn resolve_user(&self, spec: &str, more_groups: &[String]) -> Result<User, ResolveUserError> {
        self.accounts.resolve(spec, more_groups)
    }
}

/// A directory that keeps images. Any number of processes may use one at once.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
}

impl Store {
    /// Opens the store in `directory`, which is made if need be, and removes what killed processes left in it.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let store = Self { directory: directory.join(VERSION), limits: Limits::default() };
        for directory in [store.images(), store.sources()] {
            entry::create_private_directory(&directory).map_err(|source| store.error(source))?;
        }
        let swept = entry::sweep(&store.images()).and_then(|()| store.sweep_pulls(false));
        swept.map_err(|source| store.error(source))?;
        Ok(store)
    }

    /// The same store, with other limits for images that are still to be made.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The image that `reference` names: from the store, if it is there, and put there otherwise.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Store`]
    pub fn rootfs(&self, reference: &Reference, progress: &mut dyn FnMut(Progress)) -> Result<Image, Error> {
        let record = Record::of(reference, &self.sources());
        if let Some(image) = record.image().and_then(|digest| self.entry(&digest).open()) {
            return Ok(image);
        }
        // Noted before the archive is read, so that a change while it is read is a change from it.
        let state = record.state_now();
        let failed = |source| Error::Image { reference: reference.to_string(), source };
        let found = source::find(reference, &Platform::of_this_machine(), &self.limits)
            .map_err(|error| failed(error.into()))?;
        let entry = self.entry(&found.id);
        let image = match entry.open() {
            Some(image) => image,
            None => self.make(&entry, &found, &failed, progress)?,
        };
        if let Some(state) = state {
            record.keep(&found.id, state).map_err(|source| self.error(source))?;
        }
        Ok(image)
    }

    fn make(
        &self,
        entry: &Entry,
        found: &Found,
        failed: &dyn Fn(Box<dyn std::error::Error + Send + Sync>) -> Error,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, Error> {
        let locked = entry.lock(&mut || progress(Progress::Waiting)).map_err(|source| self.error(source))?;
        // Another process may have made it while this one waited.
        if let Some(image) = entry.open() {
            return Ok(image);
        }
        let written = locked
            .write(&found.config, |file, directory| import(found, &self.limits, directory, file, progress));
        match written {
            Ok(Ok(())) => entry.open().ok_or_else(|| self.error(io::ErrorKind::NotFound.into())),
            Ok(Err(error)) => Err(match error.into_write_error() {
                Ok(source) => self.error(source),
                Err(error) => failed(error.into()),
            }),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Packs a directory's content. It is packed anew each time, for nothing tells cheaply whether anything in it changed, and
    /// kept nowhere: the file has no name.
    ///
    /// # Errors
    /// [`Error::Directory`] and [`Error::Store`]
    pub fn pack_directory(
        &self,
        directory: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, Error> {
        let file = tempfile::tempfile_in(&self.directory).map_err(|source| self.error(source))?;
        let written = match pack(directory, &self.limits, &file, progress) {
            Ok(written) => written,
            Err(pack::Error::Write(error)) => {
                return Err(match error.into_write_error() {
                    Ok(source) => self.error(source),
                    Err(error) => Error::Directory { path: directory.to_owned(), source: error.into() },
                });
            }
            Err(error) => return Err(Error::Directory { path: directory.to_owned(), source: error.into() }),
        };
        // Opened a second time, because the first descriptor can write.
        let rootfs =
            File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|source| self.error(source))?;
        Ok(Image { rootfs, digest: None, config: ImageConfig::default(), accounts: written.accounts })
    }

    fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    fn sources(&self) -> PathBuf {
        self.directory.join("sources")
    }

    fn entry(&self, digest: &Digest) -> Entry {
        Entry::new(&self.images(), digest)
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Store { path: self.directory.clone(), source }
    }
}
