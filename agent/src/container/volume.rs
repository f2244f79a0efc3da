//! What the image has at a volume's place, in the volume, when that is used for the first time.
//!
//! The image is hostile: nothing in it is followed, and nothing is made but in the volume, which is held open.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
        fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat,
        readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use super::root::{self, Kind, Root};

/// Directories in directories: each holds two descriptors while it is copied.
const MOST_DEPTH: usize = 200;

/// Files with several names that are known again; beyond these, each name gets a file of its own.
const MOST_LINKS: usize = 100_000;

/// Of one list of names, or one value (xattr(7)), in bytes.
const MAX_XATTR_LEN: usize = 64 * 1024;

/// Copies what is at a place in the root, if that and the volume are directories and the volume is empty.
pub(super) fn fill(volume: &OwnedFd, root: &Root, place: &Path) -> io::Result<()> {
    let from = match root.open(place, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        found => found?,
    };
    if root::kind_of(volume)? != Kind::Directory {
        return Ok(());
    }
    let to = open_directory(volume, Path::new("."))?;
    if names(&to)?.next().is_some() {
        return Ok(());
    }
    let top = fstat(&from)?;
    let mut copy = Copy { volume: open_directory(&to, Path::new("."))?, links: BTreeMap::new() };
    copy.directory(Pair { from: &from, to: &to }, &top, Path::new(""), MOST_DEPTH)
}

struct Copy {
    volume: OwnedFd,
    /// Where a file with several names is, from the volume's top.
    links: BTreeMap<(u64, u64), PathBuf>,
}

/// A directory of the image and its copy.
#[derive(Clone, Copy)]
struct Pair<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
}

impl Copy {
    fn directory(&mut self, pair: Pair<'_>, stat: &Stat, path: &Path, depth_left: usize) -> io::Result<()> {
        for name in names(pair.from)? {
            let name = name?;
            match self.entry(pair, &name, &path.join(&name), depth_left) {
                // Another container does the same.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                copied => copied?,
            }
        }
        give_attributes(pair.from, pair.to, stat)
    }

    fn entry(&mut self, pair: Pair<'_>, name: &Path, path: &Path, depth_left: usize) -> io::Result<()> {
        let stat = statat(pair.from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file = (stat.st_dev, stat.st_ino);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let depth_left = depth_left.checked_sub(1).ok_or(Errno::LOOP)?;
                mkdirat(pair.to, name, Mode::from_raw_mode(0o700))?;
                let (from, to) = (open_directory(pair.from, name)?, open_directory(pair.to, name)?);
                return self.directory(Pair { from: &from, to: &to }, &stat, path, depth_left);
            }
            _ if self.links.contains_key(&file) => {
                let first = self.links.get(&file).map(PathBuf::as_path).unwrap_or(path);
                return Ok(linkat(&self.volume, first, pair.to, name, AtFlags::empty())?);
            }
            FileType::RegularFile => copy_file(pair, name, &stat)?,
            FileType::Symlink => {
                symlinkat(readlinkat(pair.from, name, Vec::new())?, pair.to, name)?;
                give_to_owner(pair.to, name, &stat)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(pair.to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), 0)?;
                give_to_owner(pair.to, name, &stat)?;
            }
            // A device would be one of the host's.
            _ => return Ok(()),
        }
        if stat.st_nlink > 1 && self.links.len() < MOST_LINKS {
            self.links.insert(file, path.to_owned());
        }
        Ok(())
    }
}

fn open_directory(parent: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn names(directory: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<PathBuf>> + use<>> {
    let entries = Dir::read_from(directory)?;
    Ok(entries.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => {
            use std::os::unix::ffi::OsStrExt;
            Some(Ok(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).into()))
        }
        Err(errno) => Some(Err(errno.into())),
    }))
}

fn copy_file(pair: Pair<'_>, name: &Path, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut from = File::from(openat(pair.from, name, flags, Mode::empty())?);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut to = File::from(openat(pair.to, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(&mut from, &mut to)?;
    give_attributes(&from, &to, stat)
}

/// Mode after owner: a change of owner takes set-user-ID away. The times come last.
fn give_attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    allowed(fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, &to)?;
    Ok(futimens(&to, &times(stat))?)
}

fn give_to_owner(parent: &OwnedFd, name: &Path, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    allowed(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    Ok(utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0; MAX_XATTR_LEN];
    let len = match flistxattr(&from, &mut names) {
        Err(Errno::NOTSUP) => return Ok(()),
        len => len?,
    };
    names.truncate(len);
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX_XATTR_LEN];
        let len = fgetxattr(&from, name, &mut value)?;
        value.truncate(len);
        allowed(fsetxattr(&to, name, &value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// A host's user who is not root cannot give everything away: what is there then belongs to that user.
fn allowed(given: rustix::io::Result<()>) -> io::Result<()> {
    match given {
        Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    fn filled(prepare: impl Fn(&Path, &Path)) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (image, volume) = (directory.path().join("image"), directory.path().join("volume"));
        fs::create_dir(&image).unwrap();
        fs::create_dir(&volume).unwrap();
        prepare(&image, &volume);
        let root = Root::new(open_directory(rustix::fs::CWD, &image).unwrap());
        fill(&open_directory(rustix::fs::CWD, &volume).unwrap(), &root, Path::new("/data")).unwrap();
        (directory, volume)
    }

    #[test]
    fn an_empty_volume_gets_files_links_modes_and_times() {
        let (_kept, volume) = filled(|image, _| {
            fs::create_dir_all(image.join("data/sub")).unwrap();
            fs::write(image.join("data/sub/file"), "x").unwrap();
            fs::set_permissions(image.join("data/sub/file"), PermissionsExt::from_mode(0o4711)).unwrap();
            fs::hard_link(image.join("data/sub/file"), image.join("data/twin")).unwrap();
            symlink("/outside", image.join("data/link")).unwrap();
            fs::set_permissions(image.join("data"), PermissionsExt::from_mode(0o1777)).unwrap();
            File::open(image.join("data/sub")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        });
        let (file, twin) =
            (volume.join("sub/file").metadata().unwrap(), volume.join("twin").metadata().unwrap());
        assert_eq!((file.mode() & 0o7777, file.ino()), (0o4711, twin.ino()));
        assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("/outside"));
        assert_eq!(volume.metadata().unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(volume.join("sub").metadata().unwrap().mtime(), 0);
    }

    #[test]
    fn a_volume_that_has_something_stays_as_it_is() {
        let (_kept, volume) = filled(|image, volume| {
            fs::create_dir_all(image.join("data")).unwrap();
            fs::write(image.join("data/new"), "x").unwrap();
            fs::write(volume.join("old"), "x").unwrap();
        });
        assert!(volume.join("old").exists() && !volume.join("new").exists());
    }

    #[test]
    fn a_place_that_is_a_link_is_one_of_the_image() {
        let (_kept, volume) = filled(|image, _| {
            fs::create_dir_all(image.join("real")).unwrap();
            fs::write(image.join("real/file"), "x").unwrap();
            symlink("/../../real", image.join("data")).unwrap();
        });
        assert!(volume.join("file").exists());
    }
}
