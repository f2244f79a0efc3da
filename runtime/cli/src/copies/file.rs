//! Files of a tree that a stranger has made, and of one that others change meanwhile: by descriptors, never through a link.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::FileExt,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, lgetxattr, llistxattr, openat, readlinkat,
        seek, statat,
    },
    io::Errno,
};
use securectr_image::open_beneath;

use super::record::marks;

/// The kernel's bound for a value, and more than its bound for a list of names (xattr(7)).
const MAX_ATTRIBUTE_LEN: usize = 64 * 1024;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

pub(super) fn open_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// Opens the directory in which something is, below a top, where nothing but directories is on the way.
pub(super) fn open_parent<'a>(top: &OwnedFd, way: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let name = way.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((open_beneath(top, way.parent().unwrap_or(Path::new("")))?, name))
}

/// A regular file; whatever else has come in its place is not waited for.
pub(super) fn open_file(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// None when there is nothing of that name.
pub(super) fn look(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        stat => Ok(Some(stat?)),
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn names(directory: &OwnedFd) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(OsString::from_vec(name));
        }
    }
    Ok(names)
}

pub(super) fn link_target(parent: &OwnedFd, name: &OsStr) -> io::Result<PathBuf> {
    Ok(OsString::from_vec(readlinkat(parent, name, Vec::new())?.into_bytes()).into())
}

/// A path that leads there though its name may be anything, for calls that take no descriptor.
pub(super) fn path_of(parent: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(parent.as_fd().as_raw_fd().to_string()).join(name)
}

/// A stranger's name could drive the terminal.
pub(super) fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A mark of overlayfs.
pub(super) fn mark(parent: &OwnedFd, name: &OsStr, mark: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = lgetxattr(path_of(parent, name), format!("{}{mark}", marks()), &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

/// Extended attributes of users; what cannot be read has none.
pub(super) fn attributes(parent: &OwnedFd, name: &OsStr) -> BTreeMap<OsString, Vec<u8>> {
    let path = path_of(parent, name);
    let mut list = vec![0; MAX_ATTRIBUTE_LEN];
    let Ok(len) = llistxattr(&path, &mut list) else { return BTreeMap::new() };
    let names = list.get(..len).unwrap_or_default().split(|&byte| byte == 0);
    let is_users = |name: &&[u8]| name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    let value_of = |name: &[u8]| {
        let mut value = vec![0; MAX_ATTRIBUTE_LEN];
        let len = lgetxattr(&path, name, &mut value).ok()?;
        value.truncate(len);
        Some((OsStr::from_bytes(name).to_owned(), value))
    };
    names.filter(is_users).filter_map(value_of).collect()
}

/// Compared at once, in bytes.
const PIECE_LEN: usize = 64 * 1024;

/// Whether two files of this length have the same bytes. Where both have holes nothing is read: a stranger's file can be larger than
/// any disk.
pub(super) fn same_content(one: &File, other: &File, len: u64) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; PIECE_LEN], vec![0; PIECE_LEN]);
    let mut at = 0;
    loop {
        at = next_data(one, at, len)?.min(next_data(other, at, len)?);
        let piece_len = len.saturating_sub(at).min(PIECE_LEN as u64) as usize;
        if piece_len == 0 {
            return Ok(true);
        }
        left.truncate(piece_len);
        right.truncate(piece_len);
        one.read_exact_at(&mut left, at)?;
        other.read_exact_at(&mut right, at)?;
        if left != right {
            return Ok(false);
        }
        at += piece_len as u64;
    }
}

/// Where a file has something at or behind a place.
pub(super) fn next_data(file: &File, at: u64, len: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => Ok(len),
        found => Ok(found?),
    }
}
