//! Changes of a private copy are made on this machine's own files. Each file comes whole or not at all, under its name at last.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RawMode, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
        chownat, fchmod, fchown, fsetxattr, ftruncate, futimens, mkdirat, mknodat, openat, renameat, seek,
        symlinkat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use securectr_sandbox::SandboxId;

use super::{
    change::{Change, Kind},
    file::{
        attributes, kind, link_target, look, next_data, open_directory, open_file, open_parent, open_top,
        path_of,
    },
    record::Private,
};

/// Permissions that a stranger's file can have here.
const PLAIN_MODE: RawMode = 0o777;

/// Makes them in their order.
pub(super) fn apply(private: &Private, changes: &[Change], mut warn: impl FnMut(&str)) -> Result<()> {
    let upper = open_top(&private.upper).context("open the private copy")?;
    let lower = open_top(&private.source).with_context(|| format!("open {}", private.source.display()))?;
    let tops = Tops { upper, lower };
    for change in changes {
        let name = private.shown(&change.way);
        if !tops.make(change).with_context(|| format!("apply {name}"))? {
            warn(&format!("{name} is neither a file nor a directory nor a link, and is not applied"));
        }
    }
    // What comes into a directory may not be allowed by its mode: the deepest first.
    for change in changes.iter().rev().filter(|change| change.is_directory()) {
        tops.finish_directory(&change.way)
            .with_context(|| format!("apply {}", private.shown(&change.way)))?;
    }
    Ok(())
}

struct Tops {
    upper: OwnedFd,
    lower: OwnedFd,
}

impl Tops {
    /// False when it is nothing that is applied.
    fn make(&self, change: &Change) -> io::Result<bool> {
        if change.way.as_os_str().is_empty() {
            return Ok(true);
        }
        let (lower, name) = open_parent(&self.lower, &change.way)?;
        if change.kind == Kind::Deleted {
            remove(&lower, name)?;
            return Ok(true);
        }
        let (upper, _) = open_parent(&self.upper, &change.way)?;
        let new = look(&upper, name)?.ok_or(io::ErrorKind::NotFound)?;
        let old = look(&lower, name)?.map(|old| kind(&old));
        let is_directory = kind(&new) == FileType::Directory;
        if old.is_some_and(|old| (old == FileType::Directory) != is_directory) {
            remove(&lower, name)?;
        }
        if is_directory {
            match mkdirat(&lower, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
        // Beside its place, under a name that nobody has.
        let fresh = OsString::from(format!(".securectr-{}", SandboxId::random().map_err(io::Error::other)?));
        let (from, to) = ((&upper, name), (&lower, fresh.as_os_str()));
        let made = match kind(&new) {
            FileType::RegularFile => copy_file(from, to, &new),
            FileType::Symlink => {
                link_target(&upper, name).and_then(|target| Ok(symlinkat(target, &lower, &fresh)?))
            }
            FileType::Fifo => Ok(mknodat(&lower, &fresh, FileType::Fifo, plain_mode(&new), 0)?),
            _ => return Ok(false),
        };
        let placed = made.and_then(|()| {
            if kind(&new) != FileType::RegularFile && geteuid().is_root() {
                let (uid, gid) = owner(&new);
                chownat(&lower, &fresh, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(renameat(&lower, &fresh, &lower, name)?)
        });
        placed.inspect_err(|_| {
            let _ = unlinkat(&lower, &fresh, AtFlags::empty());
        })?;
        Ok(true)
    }

    fn finish_directory(&self, way: &Path) -> io::Result<()> {
        let (upper, lower);
        let (new, directory) = if way.as_os_str().is_empty() {
            (look(&self.upper, OsStr::new("."))?, open_directory(&self.lower, OsStr::new("."))?)
        } else {
            let name;
            (upper, name) = open_parent(&self.upper, way)?;
            (lower, _) = open_parent(&self.lower, way)?;
            (look(&upper, name)?, open_directory(&lower, name)?)
        };
        let new = new.ok_or(io::ErrorKind::NotFound)?;
        if geteuid().is_root() {
            let (uid, gid) = owner(&new);
            fchown(&directory, Some(uid), Some(gid))?;
        }
        // A sticky directory, or one that hands on its group, gives nobody anything.
        Ok(fchmod(&directory, Mode::from_raw_mode(new.st_mode & 0o7777))?)
    }
}

fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match look(parent, name)? {
        None => Ok(()),
        Some(old) if kind(&old) == FileType::Directory => fs::remove_dir_all(path_of(parent, name)),
        Some(_) => Ok(unlinkat(parent, name, AtFlags::empty())?),
    }
}

fn copy_file(from: (&OwnedFd, &OsStr), to: (&OwnedFd, &OsStr), new: &Stat) -> io::Result<()> {
    let source = open_file(from.0, from.1)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(to.0, to.1, flags, Mode::RUSR | Mode::WUSR)?);
    copy_data(&source, &file, new.st_size as u64)?;
    if geteuid().is_root() {
        let (uid, gid) = owner(new);
        fchown(&file, Some(uid), Some(gid))?;
    }
    for (name, value) in attributes(from.0, from.1) {
        fsetxattr(&file, name, &value, XattrFlags::empty())?;
    }
    fchmod(&file, plain_mode(new))?;
    let modified = Timespec { tv_sec: new.st_mtime, tv_nsec: new.st_mtime_nsec as _ };
    futimens(&file, &Timestamps { last_access: modified, last_modification: modified })?;
    file.sync_data()
}

/// Holes stay holes: a stranger's file can be larger than any disk.
fn copy_data(source: &File, file: &File, len: u64) -> io::Result<()> {
    ftruncate(file, len)?;
    let mut at = 0;
    while at < len {
        let begin = next_data(source, at, len)?;
        if begin >= len {
            break;
        }
        let end = seek(source, SeekFrom::Hole(begin))?.min(len);
        seek(source, SeekFrom::Start(begin))?;
        seek(file, SeekFrom::Start(begin))?;
        io::copy(&mut io::Read::take(source, end.saturating_sub(begin)), &mut &*file)?;
        at = end.max(begin + 1);
    }
    Ok(())
}

fn plain_mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & PLAIN_MODE)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}
