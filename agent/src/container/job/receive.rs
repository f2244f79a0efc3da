//! `cp` into a container: a tar archive becomes files, where docker would put them.

use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tar::{Archive, Entry, EntryType};

use crate::container::failure::{During, Failure};

const BUFFER_LEN: usize = 64 * 1024;

/// What is in the archive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Parcel {
    /// Members as they are called, for a directory that is there.
    Archive,
    /// One file.
    File,
    /// One directory with all below it.
    Directory,
    /// The content of one directory, which is called `.` itself.
    Content,
}

/// In a process that is in the container's mount namespace: nothing leads out of it.
pub(super) fn receive(asked: &str, parcel: Parcel, input: impl Read) -> Result<(), Failure> {
    let naming = naming(asked, parcel).during(|| format!("copy to {asked}"))?;
    let mut archive = Archive::new(input);
    let mut directories = Vec::new();
    let entries = archive.entries().during(|| "read the archive".into())?;
    for entry in entries {
        let mut entry = entry.during(|| "read the archive".into())?;
        let name = entry.path().during(|| "read the archive".into())?.into_owned();
        let path = naming.path(&name).during(|| format!("make {}", name.display()))?;
        unpack(&mut entry, &path, &naming).during(|| format!("make {}", path.display()))?;
        if entry.header().entry_type().is_dir() {
            directories.push((path, modified(&entry)));
        }
    }
    // What came into them has changed their times.
    for (path, time) in directories.into_iter().rev() {
        let times = FileTimes::new().set_modified(time);
        let set = File::open(&path).and_then(|directory| directory.set_times(times));
        set.during(|| format!("set the times of {}", path.display()))?;
    }
    Ok(())
}

/// Where members go.
#[derive(Debug, PartialEq)]
enum Naming {
    Below(PathBuf),
    /// What stands here takes the place of a member's first name.
    As(PathBuf),
}

fn naming(asked: &str, parcel: Parcel) -> io::Result<Naming> {
    let path = Path::new("/").join(asked.trim_start_matches('/'));
    let found = match fs::canonicalize(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found?),
    };
    match found {
        Some(place) if place.is_dir() => Ok(Naming::Below(place)),
        Some(place) if parcel == Parcel::File && !asked.ends_with('/') => Ok(Naming::As(place)),
        Some(_) => Err(io::ErrorKind::NotADirectory.into()),
        None if parcel == Parcel::Archive || parcel == Parcel::File && asked.ends_with('/') => {
            Err(io::ErrorKind::NotFound.into())
        }
        None => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let place = fs::canonicalize(parent)?.join(name);
            Ok(if parcel == Parcel::Content { Naming::Below(place) } else { Naming::As(place) })
        }
    }
}

impl Naming {
    /// A name that leads up has no place.
    fn path(&self, name: &Path) -> io::Result<PathBuf> {
        let mut names = Vec::new();
        for part in name.components() {
            match part {
                Component::Normal(name) => names.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name leads up"));
                }
            }
        }
        let (top, skipped) = match self {
            Self::Below(top) => (top, 0),
            Self::As(top) => (top, 1),
        };
        Ok(names.into_iter().skip(skipped).fold(top.clone(), |path, name| path.join(name)))
    }
}

fn unpack<R: Read>(entry: &mut Entry<'_, R>, path: &Path, naming: &Naming) -> io::Result<()> {
    let header = entry.header();
    let kind = header.entry_type();
    let (uid, gid) = (Some(header.uid()? as u32), Some(header.gid()? as u32));
    let mode = header.mode()? & 0o7777;
    match kind {
        EntryType::Directory => {
            match fs::create_dir(path) {
                Err(_) if fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) => return Ok(()),
                made => made?,
            }
            chown(path, uid, gid)?;
            return fs::set_permissions(path, PermissionsExt::from_mode(mode));
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            make_way(path)?;
            symlink(target, path)?;
            return lchown(path, uid, gid);
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            let target = naming.path(&target)?;
            make_way(path)?;
            return fs::hard_link(target, path);
        }
        EntryType::Fifo => {
            make_way(path)?;
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0)?;
            return chown(path, uid, gid);
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {}
        // Devices, which a container gets by other ways, and what is about the archive.
        _ => return Ok(()),
    }
    let (mut file, time) = (create(path)?, modified(entry));
    let size = entry.size();
    copy_sparse(entry, &mut file, size)?;
    std::os::unix::fs::fchown(&file, uid, gid)?;
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.set_times(FileTimes::new().set_modified(time))
}

fn modified<R: Read>(entry: &Entry<'_, R>) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(entry.header().mtime().unwrap_or_default())
}

/// What is there gives way, unless it is a directory.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file on which another is mounted cannot give way, and is written to.
fn create(path: &Path) -> io::Result<File> {
    match make_way(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            OpenOptions::new().write(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(path)
        }
        Err(error) => Err(error),
        Ok(()) => OpenOptions::new().write(true).create_new(true).open(path),
    }
}

/// Where all is zero, a hole stays.
fn copy_sparse(from: &mut impl Read, to: &mut File, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut copied = 0;
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        if bytes.iter().all(|&byte| byte == 0) {
            to.seek(SeekFrom::Current(len as i64))?;
        } else {
            to.write_all(bytes)?;
        }
        copied += len as u64;
    }
    if copied < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.set_len(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_go_below_or_take_a_name() {
        let below = Naming::Below("/d".into());
        assert_eq!(below.path(Path::new("base/file")).unwrap(), Path::new("/d/base/file"));
        let renamed = Naming::As("/d/new".into());
        assert_eq!(renamed.path(Path::new("base/file")).unwrap(), Path::new("/d/new/file"));
        assert_eq!(renamed.path(Path::new("base")).unwrap(), Path::new("/d/new"));
        assert_eq!(below.path(Path::new(".")).unwrap(), Path::new("/d"));
        assert!(below.path(Path::new("a/../../b")).is_err());
    }
}
