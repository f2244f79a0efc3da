//! Templates: machines that were booted once, saved when their agents waited, and from which others go on.
//!
//! Each is a directory, named after all that it was made from ([`Inputs`]): what is made from other things has another name. It holds the
//! saved machine, of whose memory another gets a private mapping, and a manifest. It is its owner's alone, and is taken for damaged when it
//! was touched since: the kernel's time of change cannot be set back.

mod inputs;
mod make;
mod manifest;
mod touched;

use std::{
    cmp::Reverse,
    env,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    fcntl::AT_FDCWD,
    sys::{
        stat::{UtimensatFlags, utimensat},
        statvfs::statvfs,
        time::TimeSpec,
    },
};
use thiserror::Error;
use tokio::time::sleep;

pub(crate) use self::touched::Observation;
use self::{inputs::Inputs, manifest::Manifest};
pub use self::{
    inputs::{Kind, NetKind, processor},
    manifest::Refusal,
};
use crate::{BootError, Host, MachinePlan, equipment::Origin, sys::try_lock, vmm::SaveError};

/// Set to this, no machine comes from a template.
const VARIABLE: &str = "SECURECTR_TEMPLATES";
const NEVER: &str = "never";

/// In a store.
const DIRECTORY: &str = "templates";

/// More are not kept: of those that were not used for the longest time, one goes for each that comes.
const MOST_KEPT: usize = 16;

/// What a template takes at most, and some room for others, in bytes.
const LEAST_ROOM: u64 = 48 << 20;

/// How often it is looked whether another process has made what is waited for.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the template {key} is not used")]
    Refused { key: String, source: Refusal },
    #[error("start from the template")]
    Unusable(#[source] Box<BootError>),
    #[error("boot the machine that is to become a template")]
    Boot(#[source] Box<BootError>),
    #[error("save the machine that is to become a template")]
    Save(#[source] SaveError),
    #[error("there is no template {0}")]
    Missing(String),
    #[error("there is more than one template whose key begins with {0}")]
    Ambiguous(String),
    #[error("to keep one takes {} MiB of the disk, and {} MiB are free", LEAST_ROOM >> 20, .free_bytes >> 20)]
    NoRoom { free_bytes: u64 },
    #[error("describe the template")]
    Describe(#[source] serde_json::Error),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TemplateError {
    let path = path.to_owned();
    move |source| TemplateError::Io { operation, path, source }
}

/// The templates of one user, in a directory that is theirs alone.
#[derive(Clone, Debug)]
pub struct Templates(PathBuf);

/// One that may be used.
pub(crate) struct Template {
    pub origin: Origin,
    /// The machine that is made of it is the first, and shows what one touches.
    pub observation: Option<Observation>,
    pub path: PathBuf,
}

/// A template as people are shown it.
#[derive(Debug)]
pub struct Listed {
    pub key: String,
    pub kind: Kind,
    pub made: SystemTime,
    /// When a machine last came from it, or it was made.
    pub used: SystemTime,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
}

impl Templates {
    /// Those in a user's store that starts use; none where the environment's `SECURECTR_TEMPLATES` is `never`.
    pub fn in_store(store: &Path) -> Option<Self> {
        let is_wanted = env::var_os(VARIABLE).is_none_or(|value| value != NEVER);
        is_wanted.then(|| Self::kept_in(store))
    }

    /// Those in a user's store.
    pub fn kept_in(store: &Path) -> Self {
        Self(store.join(DIRECTORY))
    }

    /// The template of such a machine; it is made, which takes as long as a boot and some more, if it is not there.
    pub(crate) async fn get(
        &self,
        plan: &MachinePlan,
        kind: &Kind,
        host: &Host,
    ) -> Result<Template, TemplateError> {
        let inputs = Inputs::of(plan, kind, &host.installation)?;
        let path = self.0.join(inputs.key()?);
        if let Some(template) = open(&path, &inputs)? {
            return Ok(template);
        }
        self.make_directory()?;
        let _lock = self.lock().await?;
        // Who had the lock before may have made it.
        if let Some(template) = open(&path, &inputs)? {
            return Ok(template);
        }
        self.sweep();
        self.check_room()?;
        make::make(&path, plan, &inputs, host).await?;
        self.forget_oldest(&path)?;
        open(&path, &inputs)?.ok_or_else(|| TemplateError::Missing(name_of(&path)))
    }

    /// Makes the template that [`Sandbox::boot`](crate::Sandbox::boot) will look for; says whether it was not there before.
    pub async fn build(&self, plan: &MachinePlan, kind: &Kind, host: &Host) -> Result<Built, TemplateError> {
        let inputs = Inputs::of(plan, kind, &host.installation)?;
        let key = inputs.key()?;
        let is_new = !self.0.join(&key).exists();
        self.get(plan, kind, host).await?;
        Ok(Built { key, is_new })
    }

    /// All that are there, the one that was used last first.
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let mut all: Vec<_> = self.paths()?.iter().filter_map(|path| listed(path)).collect();
        all.sort_by_key(|listed| Reverse(listed.used));
        Ok(all)
    }

    /// Reads all of a template, and compares it with what was written. The key may be the beginning of one, and is answered whole.
    pub fn verify(&self, key: &str) -> Result<String, TemplateError> {
        let path = self.find(key)?;
        let key = name_of(&path);
        match Manifest::read(&path).and_then(|manifest| manifest.verify(&path)) {
            Ok(()) => Ok(key),
            Err(source) => Err(TemplateError::Refused { key, source }),
        }
    }

    /// Removes a template. Machines that came from it go on.
    pub async fn remove(&self, key: &str) -> Result<String, TemplateError> {
        let path = self.find(key)?;
        let _lock = self.lock().await?;
        fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        Ok(name_of(&path))
    }

    fn find(&self, key: &str) -> Result<PathBuf, TemplateError> {
        let mut found = self.paths()?.into_iter().filter(|path| name_of(path).starts_with(key));
        match (found.next(), found.next()) {
            (Some(path), None) if !key.is_empty() => Ok(path),
            (Some(_), Some(_)) => Err(TemplateError::Ambiguous(key.to_owned())),
            _ => Err(TemplateError::Missing(key.to_owned())),
        }
    }

    fn paths(&self) -> Result<Vec<PathBuf>, TemplateError> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error("list", &self.0))?,
        };
        let paths = entries.flatten().map(|entry| entry.path());
        Ok(paths.filter(|path| inputs::is_key(&name_of(path))).collect())
    }

    fn make_directory(&self) -> Result<(), TemplateError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.0).map_err(io_error("make", &self.0))
    }

    /// Of those who make and remove templates, one does.
    async fn lock(&self) -> Result<File, TemplateError> {
        let directory = File::open(&self.0).map_err(io_error("open", &self.0))?;
        while !try_lock(&directory).map_err(io_error("lock", &self.0))? {
            sleep(LOCK_PAUSE).await;
        }
        Ok(directory)
    }

    /// Nobody boots a machine twice because the first cannot be kept.
    fn check_room(&self) -> Result<(), TemplateError> {
        let room = statvfs(&self.0).map_err(|errno| io_error("look at", &self.0)(errno.into()))?;
        let free_bytes = room.blocks_available() * room.fragment_size();
        if free_bytes < LEAST_ROOM { Err(TemplateError::NoRoom { free_bytes }) } else { Ok(()) }
    }

    /// Removes what was left by those who were killed while they made one.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(make::UNFINISHED) {
                discard(&entry.path());
            }
        }
    }

    fn forget_oldest(&self, newest: &Path) -> Result<(), TemplateError> {
        let used = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let mut others: Vec<_> = self.paths()?.into_iter().filter(|path| path != newest).collect();
        others.sort_by_cached_key(|path| Reverse(used(path)));
        others.iter().skip(MOST_KEPT - 1).for_each(|path| discard(path));
        Ok(())
    }
}

/// What [`Templates::build`] did.
#[derive(Debug)]
pub struct Built {
    pub key: String,
    pub is_new: bool,
}

/// What is no good goes: the next one who needs it makes it anew.
pub(crate) fn discard(path: &Path) {
    let _ = fs::remove_dir_all(path);
}

/// None when there is none.
fn open(path: &Path, inputs: &Inputs) -> Result<Option<Template>, TemplateError> {
    let opened = match Manifest::read(path).and_then(|manifest| manifest.open(path, inputs)) {
        Err(Refusal::Missing) => return Ok(None),
        opened => opened,
    };
    let file = opened.map_err(|source| {
        discard(path);
        TemplateError::Refused { key: name_of(path), source }
    })?;
    // By the directory's time it is known which was not used for long.
    let _ = utimes_now(path);
    let (expected, observation) = touched::expected(path);
    let origin = Origin::Saved { file, expected };
    Ok(Some(Template { origin, observation, path: path.to_owned() }))
}

fn listed(path: &Path) -> Option<Listed> {
    let manifest = Manifest::read(path).ok()?;
    Some(Listed {
        key: name_of(path),
        kind: manifest.inputs.kind,
        made: fs::metadata(path.join(manifest::NAME)).and_then(|file| file.modified()).ok()?,
        used: fs::metadata(path).and_then(|directory| directory.modified()).ok()?,
        bytes: fs::metadata(path.join(manifest::MACHINE)).map_or(0, |file| file.blocks() * 512),
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `utimensat(2)` with UTIME_NOW for both.
fn utimes_now(path: &Path) -> nix::Result<()> {
    utimensat(AT_FDCWD, path, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink)
}

#[cfg(test)]
mod tests;
