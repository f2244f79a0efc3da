//! Packs a directory of the host into an EROFS image.
//!
//! The directory may belong to someone else than the caller, and change meanwhile. Every file is opened below the directory
//! without following any link (openat2(2)), so that a link put there at the right moment cannot bring a host file in.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};

use crate::erofs::Data;
use crate::import::{self, Written};
use crate::limits::Limits;
use crate::section::Stamp;
use crate::store::Progress;
use crate::tree::{Attributes, Change, Content, Device, Entry, Origin, Piece, Problem, Tree, keeps_xattr};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is refused")]
    Entry {
        path: PathBuf,
        #[source]
        source: Problem,
    },
    #[error(transparent)]
    Write(#[from] import::Error),
}

/// Writes the content of `directory` to `file`. Other file systems mounted below it are left out; their mount points are empty.
pub(crate) fn pack(
    directory: &Path,
    limits: &Limits,
    file: &File,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, Error> {
    let mut walk = Walk::new(directory, limits)?;
    walk.run()?;
    let Walk { mut tree, mut files, .. } = walk;
    Ok(import::write(&mut tree, &mut files, file, progress)?)
}

struct Walk {
    tree: Tree,
    files: HostFiles,
    /// By device and inode, for files with several names: the first name.
    seen: HashMap<(u64, u64), Vec<u8>>,
    device: u64,
    /// Directories to visit, relative to the root; a root is `.`.
    left: Vec<PathBuf>,
}

impl Walk {
    fn new(directory: &Path, limits: &Limits) -> Result<Self, Error> {
        let failed =
            |source: rustix::io::Errno| Error::Read { path: directory.to_owned(), source: source.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
        let device = rustix::fs::fstat(&root).map_err(failed)?.st_dev;
        let files = HostFiles { root, shown: directory.to_owned(), files: Vec::new(), open: None };
        Ok(Self { tree: Tree::new(limits), files, seen: HashMap::new(), device, left: vec![".".into()] })
    }

    fn run(&mut self) -> Result<(), Error> {
        while let Some(path) = self.left.pop() {
            self.visit(&path)
                .map_err(|source| Error::Read { path: self.files.shown.join(&path), source })??;
        }
        Ok(())
    }

    /// Takes in one directory, and what it holds but the content of further directories.
    fn visit(&mut self, path: &Path) -> io::Result<Result<(), Error>> {
        let directory = self.files.open(path, OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&directory)?;
        let attributes = attributes(&stat, Some(&directory))?;
        if let Err(error) = self.insert(path, Change::Directory(attributes)) {
            return Ok(Err(error));
        }
        if stat.st_dev != self.device {
            return Ok(Ok(()));
        }
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let child = path.join(OsStr::from_bytes(name));
            let stat = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.left.push(child);
                continue;
            }
            let change = match self.change(&directory, &child, &stat) {
                Ok(change) => change,
                Err(source) => return Ok(Err(Error::Read { path: self.files.shown.join(&child), source })),
            };
            if let Err(error) = self.insert(&child, change) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn insert(&mut self, path: &Path, change: Change) -> Result<(), Error> {
        let entry = Entry { path: path.as_os_str().as_bytes().to_vec(), change };
        self.tree
            .insert(0, entry)
            .map_err(|source| Error::Entry { path: self.files.shown.join(path), source })
    }

    fn change(&mut self, directory: &OwnedFd, path: &Path, stat: &Stat) -> io::Result<Change> {
        if stat.st_nlink > 1 {
            let name = path.as_os_str().as_bytes().to_vec();
            match self.seen.entry((stat.st_dev, stat.st_ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    return Ok(Change::HardLink(first.get().clone()));
                }
                std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(name)),
            }
        }
        let device =
            Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = File::from(self.files.open(path, OFlags::empty())?);
                let attributes = attributes(&rustix::fs::fstat(&file)?, Some(&file))?;
                Change::Regular(attributes, self.files.add(path, &file)?)
            }
            FileType::Symlink => {
                let name = path.file_name().unwrap_or_default();
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                Change::Symlink(attributes(stat, None::<&OwnedFd>)?, target.into_bytes())
            }
            FileType::CharacterDevice => Change::CharDevice(attributes(stat, None::<&OwnedFd>)?, device),
            FileType::BlockDevice => Change::BlockDevice(attributes(stat, None::<&OwnedFd>)?, device),
            FileType::Fifo => Change::Fifo(attributes(stat, None::<&OwnedFd>)?),
            _ => Change::Socket(attributes(stat, None::<&OwnedFd>)?),
        })
    }
}

/// Extended attributes are read from `file`, which only regular files and directories are opened for.
fn attributes(stat: &Stat, file: Option<&impl std::os::fd::AsFd>) -> io::Result<Attributes> {
    let mut attributes = Attributes {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_seconds: stat.st_mtime,
        mtime_nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        xattrs: Default::default(),
    };
    let Some(file) = file else { return Ok(attributes) };
    // Linux limits both the list of names and a value to 64 KiB (xattr(7)).
    let mut buffer = vec![0_u8; 65_536];
    let length = match rustix::fs::flistxattr(file, &mut buffer) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let names = buffer.get(..length).unwrap_or_default().to_vec();
    for name in names.split(|byte| *byte == 0).filter(|name| keeps_xattr(name)) {
        let length = rustix::fs::fgetxattr(file, name, &mut buffer)?;
        attributes.xattrs.insert(name.into(), buffer.get(..length).unwrap_or_default().into());
    }
    Ok(attributes)
}

/// Files of the directory, opened again when their data is copied.
struct HostFiles {
    root: OwnedFd,
    /// The directory's path, for messages.
    shown: PathBuf,
    files: Vec<(PathBuf, Stamp)>,
    open: Option<(Origin, File)>,
}

impl HostFiles {
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        // A FIFO that took the place of a file must not block.
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }

    /// Notes a file and where its data is; holes are found by lseek(2).
    fn add(&mut self, path: &Path, file: &File) -> io::Result<Content> {
        let metadata = file.metadata()?;
        let origin = Origin(u32::try_from(self.files.len()).map_err(|_| io::ErrorKind::FileTooLarge)?);
        self.files.push((path.to_owned(), Stamp::of(&metadata)));
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < metadata.len() {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Err(rustix::io::Errno::NXIO) => break,
                other => other?,
            };
            at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(metadata.len());
            pieces.push(Piece { at: start, offset: start, bytes: at.saturating_sub(start) });
        }
        Ok(Content { size: metadata.len(), origin, pieces })
    }
}

impl Data for HostFiles {
    fn read_exact_at(&mut self, origin: Origin, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let is_open = self.open.as_ref().is_some_and(|(open, _)| *open == origin);
        if !is_open {
            let (path, stamp) = self.files.get(origin.0 as usize).ok_or(io::ErrorKind::NotFound)?;
            let named =
                |source: io::Error| io::Error::new(source.kind(), format!("{}: {source}", path.display()));
            let file = File::from(self.open(path, OFlags::empty()).map_err(named)?);
            if Stamp::of(&file.metadata()?) != *stamp {
                return Err(io::Error::other(format!("{} was changed while it was packed", path.display())));
            }
            self.open = Some((origin, file));
        }
        let Some((_, file)) = &self.open else { return Err(io::ErrorKind::NotFound.into()) };
        file.read_exact_at(buffer, offset)
    }
}
