//! Private copies on disk: a directory in the store for each container that has some, with a record, and for each mount the directories
//! that overlayfs works with.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{FlockOperation, XattrFlags, flock, lremovexattr, lsetxattr},
    process::geteuid,
};
use securectr_sandbox::{PRIVATE_COPY, SandboxId};
use serde::{Deserialize, Serialize};

use super::file::printable;
use crate::{
    args::Global,
    container::{LEAST_ID_LEN, locate_of_run},
    paths, tree,
};

/// All of a store.
pub(crate) struct Copies(PathBuf);

/// Those of one container.
#[derive(Serialize, Deserialize)]
pub(super) struct Copy {
    pub id: String,
    pub name: String,
    pub mounts: Vec<Private>,
    #[serde(skip)]
    pub place: PathBuf,
}

/// One mount's.
#[derive(Serialize, Deserialize)]
pub(super) struct Private {
    /// Of this machine.
    pub source: PathBuf,
    /// In the container.
    pub path: PathBuf,
    /// Of what has changed on this machine later than this, the container may not know: seconds and nanoseconds of the kernel's clock
    /// for files.
    pub began: (i64, i64),
    #[serde(skip)]
    pub upper: PathBuf,
}

/// The copies of a container that runs, or about which somebody decides: nobody else does meanwhile.
pub(crate) struct Held {
    place: PathBuf,
    _lock: File,
}

/// Where overlayfs keeps its marks: those of users are all that an ordinary user can set.
pub(super) fn marks() -> &'static str {
    if geteuid().is_root() { "trusted.overlay." } else { "user.overlay." }
}

impl Copies {
    pub(crate) fn of(global: &Global) -> Result<Self> {
        Ok(Self(paths::store(global)?.join("copies")))
    }

    pub(crate) fn place(&self, id: &SandboxId) -> PathBuf {
        self.0.join(id.as_str())
    }

    /// Makes what the mounts of a spec need, if any of them is copied. A new container begins with its sources, another one goes on
    /// where it was.
    pub(crate) fn hold(&self, id: &SandboxId, name: &str, is_new: bool, spec: &Spec) -> Result<Option<Held>> {
        let mounts = spec.mounts().iter().flatten();
        let is_copied = |options: &Vec<String>| options.iter().any(|option| option.starts_with(PRIVATE_COPY));
        let copied = mounts.filter(|mount| mount.options().as_ref().is_some_and(is_copied));
        let copied: Vec<_> =
            copied.filter_map(|mount| Some((mount.source().clone()?, mount.destination().clone()))).collect();
        if copied.is_empty() {
            return Ok(None);
        }
        if self.all()?.iter().any(|other| other.name == name && (is_new || other.id != id.as_str())) {
            bail!(
                "what an earlier container {name} has changed waits: apply or discard it first, see securectr diff {name}"
            );
        }
        let place = self.place(id);
        let failed = || format!("make private copies in {}", place.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&place).with_context(failed)?;
        let held = lock(&place)?.with_context(|| format!("the private copies of {name} are in use"))?;
        if !place.join("record.json").exists() {
            let made = make(&place, id, name, copied);
            made.inspect_err(|_| drop(tree::remove(&place)))?;
        }
        Ok(Some(held))
    }

    pub(super) fn all(&self) -> Result<Vec<Copy>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", self.0.display()))?,
        };
        let mut all: Vec<_> = entries.flatten().filter_map(|entry| Copy::read(entry.path()).ok()).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Those of a container that is there, or of one that has gone.
    pub(super) fn find(&self, name: &str, global: &Global) -> Result<Copy> {
        let there = locate_of_run(global, name).ok().map(|listed| listed.located.id);
        let is_it = |copy: &Copy| match &there {
            Some(id) => copy.id == id.as_str(),
            None => copy.name == name || name.len() >= LEAST_ID_LEN && copy.id.starts_with(name),
        };
        let found = self.all()?.into_iter().find(is_it);
        found.with_context(|| format!("the container {name} has changed no private copies"))
    }

    /// How many containers' there are, and where.
    pub(crate) fn count(&self) -> Result<(usize, &Path)> {
        Ok((self.all()?.len(), &self.0))
    }

    /// With all that is in them, if there are any: their container is removed.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<()> {
        let place = self.place(id);
        if place.exists() {
            tree::remove(&place).with_context(|| format!("remove {}", place.display()))
        } else {
            Ok(())
        }
    }
}

fn make(place: &Path, id: &SandboxId, name: &str, copied: Vec<(PathBuf, PathBuf)>) -> Result<()> {
    let mounts = copied.into_iter().enumerate().map(|(number, (source, path))| {
        let upper = place.join(number.to_string()).join("upper");
        let began = make_upper(&source, &upper)?;
        Ok(Private { source, path, began, upper })
    });
    let mounts = mounts.collect::<Result<_>>()?;
    let copy = Copy { id: id.to_string(), name: name.to_owned(), mounts, place: place.to_owned() };
    fs::write(place.join("record.json"), serde_json::to_vec(&copy)?).context("note the private copies")
}

/// It shows as the mount's own directory: with the attributes of the source. Answers with the time of its making.
fn make_upper(source: &Path, upper: &Path) -> Result<(i64, i64)> {
    let metadata = fs::metadata(source).with_context(|| format!("copy {} on write", source.display()))?;
    if !metadata.is_dir() {
        bail!("only a directory can be copied on write: {} is a file", source.display());
    }
    let made = || -> io::Result<(i64, i64)> {
        let builder = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        builder(upper)?;
        builder(&upper.with_file_name("work"))?;
        if geteuid().is_root() {
            chown(upper, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        fs::set_permissions(upper, Permissions::from_mode(metadata.mode() & 0o7777))?;
        let made = fs::metadata(upper)?;
        Ok((made.ctime(), made.ctime_nsec()))
    };
    let began = made().with_context(|| format!("make {}", upper.display()))?;
    let mark = format!("{}probe", marks());
    lsetxattr(upper, &mark, b"y", XattrFlags::empty()).and_then(|()| lremovexattr(upper, &mark)).with_context(|| {
        format!("copy on write: the file system of {} does not keep the extended attributes that overlayfs needs; see --store", upper.display())
    })?;
    Ok(began)
}

/// None when somebody else has it.
fn lock(place: &Path) -> Result<Option<Held>> {
    let locked = || {
        let lock = File::open(place)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Held { place: place.to_owned(), _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)),
        }
    };
    locked().with_context(|| format!("lock {}", place.display()))
}

impl Copy {
    fn read(place: PathBuf) -> Result<Self> {
        let path = place.join("record.json");
        let json = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut copy: Self =
            serde_json::from_slice(&json).with_context(|| format!("understand {}", path.display()))?;
        for (number, private) in copy.mounts.iter_mut().enumerate() {
            private.upper = place.join(number.to_string()).join("upper");
        }
        Ok(Self { place, ..copy })
    }

    pub(super) fn hold(&self) -> Result<Held> {
        lock(&self.place)?.with_context(|| format!("container {} runs: stop it first", self.name))
    }
}

impl Private {
    /// As the container calls it.
    pub(super) fn shown(&self, way: &Path) -> String {
        let path = if way.as_os_str().is_empty() { self.path.clone() } else { self.path.join(way) };
        printable(&path)
    }

    /// As if the container had not touched it.
    pub(super) fn forget(&self, way: &Path) -> Result<()> {
        let forget = || {
            if !way.as_os_str().is_empty() {
                return tree::remove(&self.upper.join(way));
            }
            for entry in fs::read_dir(&self.upper)? {
                tree::remove(&entry?.path())?;
            }
            Ok(())
        };
        forget().with_context(|| format!("discard {}", self.shown(way)))
    }
}

impl Held {
    /// Nothing is kept when nothing is changed. Answers with how much is.
    pub(crate) fn settle(self) -> Result<usize> {
        let copy = Copy::read(self.place.clone())?;
        let mut count = 0;
        for private in &copy.mounts {
            count += private.changes()?.len();
        }
        if count == 0 {
            self.remove()?;
        }
        Ok(count)
    }

    pub(super) fn remove(self) -> Result<()> {
        tree::remove(&self.place).with_context(|| format!("remove {}", self.place.display()))
    }
}
