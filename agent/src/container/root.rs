//! Paths below a container's root. The image is hostile: nothing is resolved but by openat2(2) with the container's root as
//! the root of every symbolic link, and without the magic links of /proc.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat,
        symlinkat, unlinkat,
    },
    io::Errno,
};

/// A directory that stands for a container's root.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

/// What to make where nothing is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Root {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens what is at a path, without access to its content (`O_PATH`).
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH)
    }

    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Opens what is at a path, or makes it, with all directories above it.
    pub(super) fn find_or_make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(path, kind),
            found => found,
        }
    }

    fn make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        let names = plain_names(path)?;
        let mut parent = self.find(Path::new("/"))?;
        let mut below = PathBuf::from("/");
        for (left, name) in (0..names.len()).rev().zip(&names) {
            below.push(name);
            parent = match self.find(&below) {
                Ok(found) => found,
                // A dangling symbolic link exists for mkdirat(2), and so is refused.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_one(&parent, name, if left > 0 { Kind::Directory } else { kind })?;
                    self.find(&below)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(parent)
    }

    /// The directory that holds a path's last name, made if need be, and that name.
    pub(super) fn parent_of<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.find_or_make(parent, Kind::Directory)?, Path::new(name)))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `..` would make what is created depend on what links lie before it.
fn plain_names(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(PathBuf::from(name)),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}

fn make_one(parent: &OwnedFd, name: &Path, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(openat(parent, name, flags, Mode::from_raw_mode(0o644))?);
        }
    }
    Ok(())
}

/// Makes a symbolic link. What is there already stays.
pub(super) fn link(directory: impl AsFd, name: &str, target: &str) -> io::Result<()> {
    match symlinkat(target, directory, name) {
        Err(Errno::EXIST) => Ok(()),
        made => Ok(made?),
    }
}

/// Makes a symbolic link in the place of whatever is there.
pub(super) fn relink(directory: impl AsFd, name: &str, target: &str) -> io::Result<()> {
    let is_right =
        readlinkat(&directory, name, Vec::new()).is_ok_and(|link| link.as_bytes() == target.as_bytes());
    if is_right {
        return Ok(());
    }
    match unlinkat(&directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(symlinkat(target, directory, name)?)
}

/// Opens a path of the guest itself (`O_PATH`), which the host has named.
pub(super) fn guest(path: &str) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether an open file is a directory.
pub(super) fn kind_of(file: impl AsFd) -> io::Result<Kind> {
    let mode = fstat(file)?.st_mode;
    Ok(if FileType::from_raw_mode(mode) == FileType::Directory { Kind::Directory } else { Kind::File })
}

#[cfg(test)]
mod tests;
