//! Where a pull lays an image until it is whole: a layout of its own, which an interrupted pull leaves to the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::add::{Transfer, stored_bytes};
use super::content::Taking;
use super::entry::create_private_directory;
use super::library::Listed;
use super::lock::Lock;
use super::{Error, Progress, Store};
use crate::digest::Digest;
use crate::name::Name;
use crate::platform::Platform;
use crate::source::{self, Found, Manifest};

/// What was left for so long, nobody goes on with.
const LEFT_LIMIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const LOCK: &str = "lock";

/// A pull under way. Nothing is taken out of the store meanwhile.
#[derive(Debug)]
pub struct Pulling<'s> {
    store: &'s Store,
    name: Name,
    platform: Platform,
    directory: PathBuf,
    _content: Lock,
    _alone: Lock,
}

impl Store {
    /// Begins a pull, or goes on with one. Waits for another process that pulls the same; `waiting` is called if one does.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn pull(
        &self,
        name: &Name,
        platform: &Platform,
        waiting: &mut dyn FnMut(),
    ) -> Result<Pulling<'_>, Error> {
        self.begin(name, platform, waiting).map_err(|source| self.error(source))
    }

    fn begin(&self, name: &Name, platform: &Platform, waiting: &mut dyn FnMut()) -> io::Result<Pulling<'_>> {
        let place = self.pulls().join(Digest::of(format!("{name} {platform}").as_bytes()).hex());
        self.content().create()?;
        let alone = loop {
            create_private_directory(&place.join("layout"))?;
            let lock = match Lock::alone(&place.join(LOCK), waiting) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock?,
            };
            // Who had it may have taken the place away.
            if lock.is_at(&place.join(LOCK))? {
                break lock;
            }
        };
        Ok(Pulling {
            store: self,
            name: name.clone(),
            platform: platform.clone(),
            directory: place.join("layout"),
            _content: Lock::shared(&self.content_lock())?,
            _alone: alone,
        })
    }

    pub(super) fn pulls(&self) -> PathBuf {
        self.directory.join("pulls")
    }

    /// Removes what pulls left that nobody goes on with just now: all, or what was left long ago.
    pub(super) fn sweep_pulls(&self, all: bool) -> io::Result<()> {
        let places = match fs::read_dir(self.pulls()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            places => places?,
        };
        for place in places {
            let place = place?.path();
            let is_old = || fs::metadata(place.join(LOCK))?.modified()?.elapsed().map_err(io::Error::other);
            if !all && is_old().is_ok_and(|age| age < LEFT_LIMIT) {
                continue;
            }
            if let Ok(Some(_alone)) = Lock::try_alone(&place.join(LOCK)) {
                take_away(&place)?;
            }
        }
        Ok(())
    }
}

impl Pulling<'_> {
    /// The layout that is to be filled.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Blobs that need not be fetched, each named by the hexadecimal digits of its digest.
    pub fn present(&self) -> PathBuf {
        self.store.content().path().to_owned()
    }

    /// Takes the whole image into the store. `index` is what led to it.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Store`]
    pub fn finish(self, index: Option<&Digest>, progress: &mut dyn FnMut(Progress)) -> Result<Listed, Error> {
        let store = self.store;
        let failed = |source| Error::Image { reference: self.name.to_string(), source };
        let found = source::find_beside(&self.directory, &store.directory, &self.platform, &store.limits)
            .map_err(|error| failed(error.into()))?;
        let names = vec![Some(self.name.clone())];
        let total = stored_bytes(&found);
        let mut transfer = Transfer { how: Taking::Move, done: 0, total, progress };
        let found =
            Found { manifest: found.manifest.map(|it| Manifest { index: index.cloned(), ..it }), ..found };
        let mut added = store.take(&found, names, &mut transfer, &failed)?;
        let listed = added.pop().ok_or_else(|| Error::NotThere(self.name.to_string()))?;
        fs::remove_dir_all(&self.directory).map_err(|source| store.error(source))?;
        Ok(listed)
    }

    /// Whether the next pull would find something to go on with.
    fn has_something(&self) -> bool {
        let is_filled = |name: &str| {
            fs::read_dir(self.directory.join(name)).is_ok_and(|mut files| files.next().is_some())
        };
        is_filled("blobs/sha256") || is_filled("blobs/partial")
    }
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        if !self.has_something() {
            // What stays is swept one day.
            let _ = take_away(self.directory.parent().unwrap_or(&self.directory));
        }
    }
}

/// At once, for those who wait for its lock; then piece by piece.
fn take_away(place: &Path) -> io::Result<()> {
    let gone = place.with_extension("gone");
    if gone != place {
        match fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::rename(place, &gone)?,
        }
    }
    fs::remove_dir_all(gone)
}
