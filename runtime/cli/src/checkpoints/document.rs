//! A checkpoint on disk: a directory with the machine, its disk, and a document that says what they are and what container they were of.
//! It is its owner's alone.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, flock};
use securectr_sandbox::{Broken, SandboxId, Sealed, open_own, processor};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{
    args::Global,
    container::{DISK, Kept, MACHINE, Moment},
    paths,
};

/// Changes whenever the meaning of a field does.
const FORMAT: u32 = 1;

const NAME: &str = "checkpoint.json";

/// No document is longer, in bytes: it has a container's spec in it.
const MOST_BYTES: u64 = 4 << 20;

/// How the name of a directory begins in which there is no checkpoint yet: no checkpoint can be called so.
const UNFINISHED: &str = ".new-";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    format: u32,
    /// Of this program.
    version: String,
    /// Under which its machine ran.
    processor: String,
    /// RFC 3339.
    pub created: String,
    /// The id of the container.
    pub container: String,
    pub kept: Kept,
    pub spec: Spec,
    pub moment: Moment,
    /// None of one that goes as soon as forks have come of it.
    seals: Option<Seals>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Seals {
    machine: Sealed,
    /// None where the container's root is read-only.
    disk: Option<Sealed>,
}

/// What it is of.
pub(super) struct Of {
    pub container: String,
    pub kept: Kept,
    pub spec: Spec,
    pub moment: Moment,
}

impl Checkpoint {
    /// Writes the document of what lies in a directory. What a crash leaves of it is whole, or has none.
    pub(super) fn write(directory: &Path, of: Of, is_sealed: bool) -> Result<()> {
        let seals = if is_sealed { Some(Seals::of(directory)?) } else { None };
        let Of { container, kept, spec, moment } = of;
        let created = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let processor = processor().context("see which processor this is")?;
        let document =
            Self { format: FORMAT, version, processor, created, container, kept, spec, moment, seals };
        let json = serde_json::to_vec(&document)?;
        let path = directory.join(NAME);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()));
        written.with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let understand = || format!("read the checkpoint {}", directory.display());
        let mut json = Vec::new();
        let file = open_own(directory, NAME).with_context(understand)?;
        file.take(MOST_BYTES).read_to_end(&mut json).with_context(understand)?;
        let document: Self = serde_json::from_slice(&json).with_context(understand)?;
        match document.format {
            FORMAT => Ok(document),
            other => bail!("the checkpoint has format {other}, this program reads {FORMAT}"),
        }
    }

    /// Its machine would find others of the instructions that it knows.
    pub(super) fn check_processor(&self) -> Result<()> {
        if self.processor != processor().context("see which processor this is")? {
            bail!("the checkpoint was made under another processor");
        }
        Ok(())
    }

    /// Its machine, which is what was saved.
    pub(crate) fn machine(&self, directory: &Path) -> Result<File> {
        let sealed = self.seals.as_ref().map(|seals| &seals.machine);
        Ok(open(sealed, directory, MACHINE)?)
    }

    /// Where its disk is, if there is one, and that is what was saved.
    pub(crate) fn disk(&self, directory: &Path) -> Result<Option<PathBuf>> {
        let path = directory.join(DISK);
        let sealed = match &self.seals {
            Some(Seals { disk: None, .. }) => return Ok(None),
            None if !path.exists() => return Ok(None),
            seals => seals.as_ref().and_then(|seals| seals.disk.as_ref()),
        };
        open(sealed, directory, DISK)?;
        Ok(Some(path))
    }

    /// Reads all of it.
    pub(super) fn verify(&self, directory: &Path) -> Result<()> {
        let Some(Seals { machine, disk }) = &self.seals else { return Ok(()) };
        machine.verify(directory, MACHINE)?;
        disk.as_ref().map(|disk| disk.verify(directory, DISK)).transpose()?;
        Ok(())
    }
}

/// One that was touched since, as by a copy from elsewhere, is compared as a whole.
fn open(sealed: Option<&Sealed>, directory: &Path, name: &'static str) -> Result<File, Broken> {
    match sealed {
        None => open_own(directory, name),
        Some(sealed) => sealed.open(directory, name).or_else(|error| match error {
            Broken::Changed(_) => sealed.verify(directory, name),
            other => Err(other),
        }),
    }
}

impl Seals {
    fn of(directory: &Path) -> Result<Self> {
        let seal = |name: &'static str| {
            let sealed =
                open_own(directory, name).map(|file| file.sync_all().and_then(|()| Sealed::of(&file)));
            sealed?.with_context(|| format!("read {name}"))
        };
        let disk = directory.join(DISK).exists().then(|| seal(DISK)).transpose()?;
        Ok(Self { machine: seal(MACHINE)?, disk })
    }
}

/// A checkpoint that is being made. It is locked as long as it is.
pub(super) struct Begun {
    directory: TempDir,
    _lock: File,
}

impl Begun {
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// All of a store.
pub(crate) struct Checkpoints(PathBuf);

impl Checkpoints {
    pub(crate) fn of(global: &Global) -> Result<Self> {
        Ok(Self(paths::store(global)?.join("checkpoints")))
    }

    /// Where one is.
    pub(crate) fn find(&self, name: &SandboxId) -> Result<PathBuf> {
        let path = self.0.join(name.as_str());
        if path.is_dir() { Ok(path) } else { bail!("No such checkpoint: {name}") }
    }

    pub(super) fn check_free(&self, name: &SandboxId) -> Result<()> {
        if self.find(name).is_ok() {
            bail!("there is a checkpoint {name} already");
        }
        Ok(())
    }

    /// An empty directory for one, which goes with the value.
    pub(super) fn begin(&self) -> Result<Begun> {
        let made = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
            // Nobody sweeps away what is not locked yet.
            let _alone = locked(&self.0, FlockOperation::LockExclusive)?;
            self.sweep();
            let directory = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.0)?;
            let lock = locked(directory.path(), FlockOperation::LockExclusive)?;
            Ok::<_, io::Error>(Begun { directory, _lock: lock })
        };
        made().with_context(|| format!("make a directory in {}", self.0.display()))
    }

    /// Removes what was left by those who were killed.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let is_unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
            if is_unfinished && locked(&entry.path(), FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Gives a name to what is there.
    pub(super) fn finish(&self, begun: Begun, name: &SandboxId) -> Result<()> {
        let renamed = fs::rename(begun.path(), self.0.join(name.as_str()));
        renamed.with_context(|| format!("keep the checkpoint {name}"))?;
        let _ = begun.directory.keep();
        Ok(())
    }

    /// By their names.
    pub(crate) fn all(&self) -> Result<Vec<(SandboxId, PathBuf)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", self.0.display()))?,
        };
        let named = entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
        let mut all: Vec<(SandboxId, PathBuf)> = named.collect();
        all.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        Ok(all)
    }
}

fn locked(directory: &Path, how: FlockOperation) -> io::Result<File> {
    let file = File::open(directory)?;
    flock(&file, how)?;
    Ok(file)
}

/// What a checkpoint takes of the disk, in bytes.
pub(crate) fn bytes(directory: &Path) -> u64 {
    let of = |name| fs::metadata(directory.join(name)).map_or(0, |file| file.blocks() * 512);
    [NAME, MACHINE, DISK].into_iter().map(of).sum()
}
